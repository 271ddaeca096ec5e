// Command keeper is the parent process of an OCI runtime server's containers; see
// cri/oci/keeper. The server starts it; it is not meant to be run by hand.
package main

import (
	"fmt"
	"os"

	"github.com/nodekit-project/nodekit/cri/oci/keeper/daemon"
)

func main() {
	if err := daemon.Main(os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, "keeper:", err)
		os.Exit(1)
	}
}
