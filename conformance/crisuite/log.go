package crisuite

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/nodekit-project/nodekit/conformance"
	"github.com/nodekit-project/nodekit/cri/log"
)

// logTime is how late the last line may be written after the end is known.
const logTime = time.Second

func logRules() []conformance.Rule[Target] {
	return []conformance.Rule[Target]{{
		ID: "CRI-LOG-001", Level: conformance.Must, Tier: conformance.Quick,
		Title: "writes what a container prints to its log path, in records that the kubelet reads",
		Spec: spec("ContainerConfig", "Path relative to PodSandboxConfig.LogDirectory for container to store the log (STDOUT and STDERR) "+
			"on the host."),
		Check: withImage(checkLog),
	}}
}

func checkLog(ctx context.Context, s *subject) error {
	if len(s.in.Target.Print) == 0 {
		return conformance.NotApplicable("the target names no command that prints")
	}
	id, err := s.create(ctx, s.in.Target.Print)
	if err != nil {
		return err
	}
	if err := s.startContainer(ctx, id); err != nil {
		return err
	}
	if _, err := s.exited(ctx, id); err != nil {
		return err
	}
	st, err := s.container(ctx, id)
	if err != nil {
		return err
	}
	want := filepath.Join(s.logs, logName)
	if st.GetLogPath() != want {
		return fmt.Errorf("ContainerStatus: log path %q, want %q", st.GetLogPath(), want)
	}
	for late := time.Now().Add(logTime); ; time.Sleep(5 * time.Millisecond) {
		err := hasLine(want, "hello")
		if err == nil || time.Now().After(late) || ctx.Err() != nil {
			return err
		}
	}
}

// hasLine returns nil when the log has one record, of the line.
func hasLine(path, line string) error {
	data, err := os.ReadFile(path)
	if err != nil {
		return fmt.Errorf("reading the container's log: %w", err)
	}
	if len(data) == 0 {
		return fmt.Errorf("the log of a container that printed %q is empty", line)
	}
	for record := range bytes.Lines(data) {
		rec, err := log.Parse(bytes.TrimSuffix(record, []byte{'\n'}))
		if err != nil {
			return fmt.Errorf("the log is not in the CRI's format: %w", err)
		}
		if got := strings.TrimSuffix(string(rec.Content), "\r"); got != line || rec.Stream != log.Stdout || rec.Partial {
			return fmt.Errorf("the log has %+v, want %q as a whole line of stdout", rec, line)
		}
	}
	return nil
}
