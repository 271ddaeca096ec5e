package crisuite

import (
	"context"
	"errors"
	"fmt"
	"time"

	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/nodekit-project/nodekit/conformance"
	"github.com/nodekit-project/nodekit/cri"
)

const (
	// execTimeout is what a rule gives a command that never ends, in seconds.
	execTimeout = 1
	// execPatience is how long after that the answer may come.
	execPatience = 5 * time.Second
)

func execRules() []conformance.Rule[Target] {
	return []conformance.Rule[Target]{{
		ID: "CRI-EXEC-001", Level: conformance.Must, Tier: conformance.Quick,
		Title: "answers ExecSync of a command that fails with its exit code and without an error",
		Spec:  spec("ExecSyncResponse", "Exit code the command finished with. Default: 0 (success)."),
		Check: withImage(checkExecCode),
	}, {
		ID: "CRI-EXEC-002", Level: conformance.Must, Tier: conformance.Quick,
		Title: "ends ExecSync with an error when the command's time is up",
		Spec:  spec("ExecSyncRequest", "Timeout in seconds to stop the command. Default: 0 (run forever)."),
		Check: withImage(checkExecTimeout),
	}}
}

// exec runs a command in a new container that sleeps.
func (s *subject) exec(ctx context.Context, cmd []string, timeout int64) (*runtimeapi.ExecSyncResponse, error) {
	id, err := s.create(ctx, s.in.Target.Sleep)
	if err != nil {
		return nil, err
	}
	if err := s.startContainer(ctx, id); err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(ctx, time.Duration(timeout)*time.Second+execPatience)
	defer cancel()
	resp, err := s.Runtime.ExecSync(ctx, &runtimeapi.ExecSyncRequest{ContainerId: id, Cmd: cmd, Timeout: timeout})
	if errors.Is(err, cri.ErrUnimplemented) {
		return nil, conformance.NotApplicable("the runtime does not support ExecSync")
	}
	if ctx.Err() != nil {
		return nil, fmt.Errorf("ExecSync has not answered %v after the command's time was up", execPatience)
	}
	if err != nil {
		return nil, execError{err}
	}
	return resp, nil
}

// execError is what the runtime answered to ExecSync.
type execError struct{ error }

func checkExecCode(ctx context.Context, s *subject) error {
	resp, err := s.exec(ctx, s.in.Target.Fail, 0)
	if err != nil {
		return fmt.Errorf("ExecSync of a command that ends with code 7: %w", err)
	}
	if resp.GetExitCode() != 7 {
		return fmt.Errorf("ExecSync: exit code %d, want 7, with which %q ends", resp.GetExitCode(), s.in.Target.Fail)
	}
	return nil
}

func checkExecTimeout(ctx context.Context, s *subject) error {
	resp, err := s.exec(ctx, s.in.Target.Sleep, execTimeout)
	var answer execError
	switch {
	case errors.As(err, &answer):
		return nil
	case err != nil:
		return err
	}
	return fmt.Errorf("ExecSync of %q with a timeout of %d s answered with exit code %d, want an error", s.in.Target.Sleep, execTimeout, resp.GetExitCode())
}
