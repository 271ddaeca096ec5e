//go:build !linux

package kubeletdir

import "errors"

var errNotLinux = errors.New("mount namespaces need Linux")

// Enter returns a function that returns an error: mount namespaces need Linux.
func Enter(string) func() error { return func() error { return errNotLinux } }

// Hold returns an error: mount namespaces need Linux.
func Hold() (release func() error, err error) { return nil, errNotLinux }
