package criclientsuite

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"

	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

func logRules() []rule {
	return []rule{
		facto("CRIC-LOG-001", "makes the directory of a container's log before it creates the container",
			"BuildContainerLogsDirectory", "A runtime opens the log file where it is told, and makes no directory.", checkLogPlace),
		should("CRIC-LOG-002", "asks a runtime to open the log again that it has rotated",
			"ReopenContainerLog", "This is often called after the log file has been rotated.", checkRotates, LogRotation),
		relied("CRIC-LOG-003", "gives no containers of different Pods one log file",
			"logs", "A container's log has what this container printed, and is read, rotated and removed as its own.", checkLogOfPods),
		facto("CRIC-LOG-004", "gives each Pod a log directory of its own",
			"BuildPodLogsDirectory", "A Pod's logs are removed with the directory, and collectors find out by its name whose they are.", checkLogDirectories),
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

// logsOfTwo returns the configs of the sandboxes of two Pods, and of their containers, which
// have the same name.
func logsOfTwo(ctx context.Context, l *lab) (pods [2]*runtimeapi.PodSandboxConfig, containers [2]*runtimeapi.ContainerConfig, err error) {
	for i := range pods {
		s, err := l.pod()
		if err != nil {
			return pods, containers, err
		}
		sandbox, err := s.sandbox(ctx)
		if err != nil {
			return pods, containers, err
		}
		c, err := s.container(ctx)
		if err != nil {
			return pods, containers, err
		}
		pods[i], containers[i] = sandbox.GetConfig(), c.GetConfig()
	}
	return pods, containers, nil
}

func checkLogOfPods(ctx context.Context, l *lab) error {
	pods, containers, err := logsOfTwo(ctx, l)
	if err != nil {
		return err
	}
	one := filepath.Join(pods[0].GetLogDirectory(), containers[0].GetLogPath())
	if filepath.Join(pods[1].GetLogDirectory(), containers[1].GetLogPath()) == one {
		return fmt.Errorf("%q is the log of containers of two Pods", one)
	}
	return nil
}

func checkLogDirectories(ctx context.Context, l *lab) error {
	pods, _, err := logsOfTwo(ctx, l)
	if err != nil {
		return err
	}
	one, other := filepath.Clean(pods[0].GetLogDirectory()), filepath.Clean(pods[1].GetLogDirectory())
	if one == other {
		return fmt.Errorf("log_directory %q is that of two Pods", one)
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
