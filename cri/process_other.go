//go:build !linux

package cri

// killMarked finds no process by its environment here.
func killMarked(string) error { return nil }
