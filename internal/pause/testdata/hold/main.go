// Command hold pauses, whatever its arguments are.
package main

import (
	"fmt"
	"os"
	"os/signal"
	"syscall"

	"github.com/nodekit-project/nodekit/internal/pause"
)

func main() {
	// A signal before Run listens is lost, and does not end the process.
	signal.Notify(make(chan os.Signal, 1), syscall.SIGTERM, syscall.SIGINT)
	fmt.Println("the runtime has started")
	pause.Run()
}
