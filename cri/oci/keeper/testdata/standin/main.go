// Command standin does what an OCI runtime does, as the keeper sees it: it
// starts a shell script, writes its process id to the file "pid" and ends
// without waiting for it.
package main

import (
	"os"
	"strconv"
	"syscall"
)

func main() {
	pid, err := syscall.ForkExec("/bin/sh", []string{"sh", "-c", os.Args[1]}, &syscall.ProcAttr{Env: os.Environ(), Files: []uintptr{0, 1, 2}})
	if err == nil {
		err = os.WriteFile("pid", []byte(strconv.Itoa(pid)), 0o600)
	}
	if err != nil {
		panic(err)
	}
}
