//go:build !linux

package cni

import (
	"bytes"
	"io"
	"os/exec"
)

// child is an executed plugin.
type child struct{ cmd *exec.Cmd }

func start(file string, env []string, stdin []byte, stdout, stderr io.Writer) (*child, error) {
	cmd := exec.Command(file) // without ctx, from whose end on WaitDelay would count
	cmd.Stdin, cmd.Stdout, cmd.Stderr = bytes.NewReader(stdin), stdout, stderr
	cmd.Dir, cmd.Env, cmd.WaitDelay = "/", env, drainTime
	return &child{cmd}, cmd.Start()
}

func (c *child) wait() error      { return c.cmd.Wait() }
func (c *child) terminate() error { return c.cmd.Process.Kill() }
func (c *child) kill()            {}
