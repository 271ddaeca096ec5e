package criclientsuite

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
)

func logRules() []rule {
	return []rule{
		facto("CRIC-LOG-001", "makes the directory of a container's log before it creates the container",
			"BuildContainerLogsDirectory", "A runtime opens the log file where it is told, and makes no directory.", checkLogPlace),
		should("CRIC-LOG-002", "asks a runtime to open the log again that it has rotated",
			"ReopenContainerLog", "This is often called after the log file has been rotated.", checkRotates, LogRotation),
	}
}

// logOf returns the log file of the container's first instance.
func (s *subject) logOf(ctx context.Context) (string, error) {
	sandbox, err := s.sandbox(ctx)
	if err != nil {
		return "", err
	}
	c, err := s.container(ctx)
	if err != nil {
		return "", err
	}
	return filepath.Join(sandbox.GetConfig().GetLogDirectory(), c.GetConfig().GetLogPath()), nil
}

// checkLogPlace relies on the suite's runtime, which creates a file but no directory.
func checkLogPlace(ctx context.Context, l *lab) error {
	s, err := l.pod()
	if err != nil {
		return err
	}
	if _, err := s.container(ctx); err != nil {
		return err
	}
	for _, c := range s.calls().of("CreateContainer").named(mainName) {
		if c.logPlace != nil {
			return fmt.Errorf("looking at where the log is to be: %w", c.logPlace)
		}
	}
	return nil
}

func checkRotates(ctx context.Context, l *lab) error {
	s, err := l.running(ctx)
	if err != nil {
		return err
	}
	path, err := s.logOf(ctx)
	if err != nil {
		return err
	}
	const lines = 30_000 // 2 MiB
	line := []byte("2026-01-02T03:04:05.123456789Z stdout F all work and no play\n")
	if err := os.WriteFile(path, bytes.Repeat(line, lines), 0o600); err != nil {
		return err
	}
	if err := s.await(ctx, func(cs calls) error { return called(cs, "ReopenContainerLog") }); err != nil {
		return err
	}
	rotated, err := filepath.Glob(path + ".*")
	if err == nil && len(rotated) == 0 {
		err = errors.New("ReopenContainerLog was called, and the log had not been moved")
	}
	return err
}
