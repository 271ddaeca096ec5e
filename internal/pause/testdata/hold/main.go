// Command hold pauses, whatever its arguments are.
package main

import (
	"fmt"

	"github.com/nodekit-project/nodekit/internal/pause"
)

func main() {
	fmt.Println("the runtime has started")
	pause.Run()
}
