// Package execerr explains why the kernel did not execute a program.
package execerr

import (
	"errors"
	"fmt"
	"os"
	"syscall"
)

// Explain adds to err, with which the execution of file failed, what the kernel does not
// say: that what does not exist is another file, which the program needs, or what a file
// must be. Any other error is returned as it is.
func Explain(file string, err error) error {
	switch {
	case errors.Is(err, syscall.ENOENT):
		if _, missing := os.Stat(file); missing == nil {
			return fmt.Errorf("%w: the file is there, but not the interpreter that it names: the program in its #! line, "+
				"or the dynamic loader of a C library that this machine does not have (in Go, build with CGO_ENABLED=0)", err)
		}
	case errors.Is(err, syscall.ENOEXEC):
		return fmt.Errorf("%w: it is neither a program for this machine nor a script whose first line begins with #! and names its interpreter", err)
	}
	return err
}
