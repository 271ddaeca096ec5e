package main

import (
	"errors"
	"io/fs"
	"os"
	"os/exec"
	"strings"

	"github.com/nodekit-project/nodekit/internal/fault"
)

// commandOf returns the words of --exec. It rejects a program that does not exist,
// since otherwise each rule of a suite would fail and blame the plugin.
func commandOf(line string) ([]string, error) {
	command, err := words(line)
	if err != nil {
		return nil, err
	}
	if len(command) == 0 {
		return nil, fault.Invalid.Errorf("--exec is empty: give the command that starts what is tested")
	}
	if err := checkProgram(command[0]); err != nil {
		return nil, fault.Invalid.Errorf("--exec %q: %w", line, err)
	}
	return command, nil
}

// checkProgram returns the reason why a program cannot be started. A name without a
// slash is looked up in PATH.
func checkProgram(name string) error {
	if strings.Contains(name, "$(") { // replaced later
		return nil
	}
	_, err := exec.LookPath(name)
	var missing *exec.Error
	if !errors.As(err, &missing) {
		return err
	}
	fi, statErr := os.Stat(name)
	switch {
	case statErr == nil && fi.IsDir():
		return errors.New("it is a directory: name the program in it")
	case statErr == nil && errors.Is(err, exec.ErrNotFound):
		return fault.NotFound.Errorf("there is no %q in PATH: write ./%s for the file in this directory", name, name)
	case errors.Is(err, exec.ErrNotFound):
		return fault.NotFound.Errorf("there is no %q in PATH", name)
	case statErr == nil && errors.Is(err, fs.ErrPermission):
		return errors.New("it is not executable: build a program with go build -o, or chmod +x a script")
	case errors.Is(err, fs.ErrNotExist):
		return fault.NotFound.Errorf("there is no such file: build it first")
	}
	return missing.Err
}
