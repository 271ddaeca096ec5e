// Command show tells what the runtime has made of how it was started.
package main

import (
	"encoding/json"
	"os"
	"runtime"

	"github.com/nodekit-project/nodekit/internal/oneproc"
)

func main() {
	before := os.Getenv("GOMAXPROCS")
	if err := oneproc.Hide(); err != nil {
		panic(err)
	}
	err := json.NewEncoder(os.Stdout).Encode(map[string]any{
		"procs": runtime.GOMAXPROCS(0), "before": before, "env": os.Environ(), "args": os.Args,
	})
	if err != nil {
		panic(err)
	}
}
