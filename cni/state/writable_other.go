//go:build !linux

package state

import "os"

func writable(dir string) error {
	_, err := os.Stat(dir)
	return err
}
