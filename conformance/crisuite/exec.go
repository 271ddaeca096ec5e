package crisuite

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"strings"
	"time"

	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

const (
	// execTimeout is the timeout of a command that never ends, in seconds.
	execTimeout = 1
	// execPatience is how long after that the answer may come.
	execPatience = 5 * time.Second
)

const capSentence = "If the stdout of the command produces more than 16MB, the remaining output should be discarded, and the command should proceed with no error."

func execRules() []rule {
	return []rule{
		must("CRI-EXEC-001", "answers ExecSync of a command that fails with its exit code and without an error",
			"ExecSyncResponse", "Exit code the command finished with. Default: 0 (success).", checkExecCode, Exec),
		heavy(must("CRI-EXEC-002", "ends ExecSync with an error when the command's time is up",
			"ExecSyncRequest", "Timeout in seconds to stop the command. Default: 0 (run forever).", checkExecTimeout, Exec)),
		relied("CRI-EXEC-003", "answers ExecSync whose time is up with DeadlineExceeded",
			"probes", "The kubelet takes DeadlineExceeded for a probe that timed out, which is a failure; any other error leaves the probe without a result.", checkExecTimeoutCode, Exec),
		must("CRI-EXEC-004", "returns stdout and stderr apart, byte for byte",
			"ExecSyncResponse", "Captured command stdout output. [...] Captured command stderr output.", checkExecOutput, Exec),
		heavy(should("CRI-EXEC-005", "caps what ExecSync returns, and lets the command go on",
			"ExecSyncResponse", "The runtime should cap the output of this response to 16MB. "+capSentence, checkExecCap, Exec)),
		heavy(facto("CRI-EXEC-006", "answers ExecSync although a child of the command keeps its stdout",
			"probes", "A probe whose command leaves something in the background ends with the command, not with what it left.", checkExecLeaves, Exec)),
		heavy(must("CRI-EXEC-007", "stops the command whose time is up",
			"ExecSyncRequest", "Timeout in seconds to stop the command.", checkExecStopped, Exec, Isolation, HostProcesses)),
		heavy(relied("CRI-EXEC-008", "goes on with the container after an ExecSync that timed out",
			"probes", "A probe that fails must not end the container by itself.", checkExecSurvives, Exec)),
		relied("CRI-EXEC-009", "answers ExecSync in a container that does not run with an error",
			"probes", "A command in a container that has ended did not run: code 0 would be a probe's success.", checkExecInEnded, Exec),
		facto("CRI-EXEC-010", "answers ExecSync of a program that is not there with an error or a code that is not 0",
			"probes", "A probe whose program is not there fails.", checkExecNoProgram, Exec),
		facto("CRI-EXEC-011", "executes a command as the container's user, with its groups and capabilities",
			"exec", "A command in a container has no more rights than the container.", checkExecUser, Exec, Isolation),
		heavy(facto("CRI-EXEC-012", "executes commands at the same time",
			"probes", "Probes of a container may run at the same time, and none waits for another.", checkExecTogether, Exec)),
	}
}

func (s *subject) sleeping(ctx context.Context) (*box, error) { return s.box(ctx, forever) }

func checkExecCode(ctx context.Context, s *subject) error {
	b, err := s.sleeping(ctx)
	if err != nil {
		return err
	}
	for _, want := range []int32{7, 200} {
		resp, err := b.execSync(ctx, fmt.Sprint("exit ", want), 0)
		if err != nil {
			return err
		}
		if resp.GetExitCode() != want {
			return fmt.Errorf("ExecSync: exit code %d, want %d, with which the command ends", resp.GetExitCode(), want)
		}
	}
	resp, err := b.execSync(ctx, "cat /no/such/file", 0)
	if err == nil && (resp.GetExitCode() != 1 || !strings.Contains(string(resp.GetStderr()), "no such file")) {
		return fmt.Errorf("ExecSync of a command that complains and ends with code 1: exit code %d, stderr %q: what a command printed is answered also when it fails",
			resp.GetExitCode(), resp.GetStderr())
	}
	return err
}

// timesOut runs a command that does not end and returns what ExecSync answered.
func (b *box) timesOut(ctx context.Context, verb string) error {
	ctx, cancel := context.WithTimeout(ctx, execTimeout*time.Second+execPatience)
	defer cancel()
	resp, err := b.execSync(ctx, verb, execTimeout)
	if ctx.Err() != nil {
		return lateError{fmt.Errorf("ExecSync has not answered %v after the command's time was up", execPatience)}
	}
	if err == nil {
		return lateError{fmt.Errorf("ExecSync with a timeout of %d s answered with exit code %d, want an error", execTimeout, resp.GetExitCode())}
	}
	return err
}

// lateError says that a timeout got no answer in time, or one without an error.
type lateError struct{ error }

func checkExecTimeout(ctx context.Context, s *subject) error {
	b, err := s.sleeping(ctx)
	if err != nil {
		return err
	}
	var late lateError
	if err := b.timesOut(ctx, forever); errors.As(err, &late) {
		return err
	}
	return nil
}

func checkExecTimeoutCode(ctx context.Context, s *subject) error {
	b, err := s.sleeping(ctx)
	if err != nil {
		return err
	}
	if err := b.timesOut(ctx, forever); !errors.Is(err, context.DeadlineExceeded) {
		return fmt.Errorf("%w; want the code DeadlineExceeded", err)
	}
	return nil
}

func checkExecOutput(ctx context.Context, s *subject) error {
	b, err := s.sleeping(ctx)
	if err != nil {
		return err
	}
	out, err := b.execSync(ctx, "echo to stdout", 0)
	if err != nil {
		return err
	}
	errOut, err := b.execSync(ctx, "echo --stderr to stderr", 0)
	if err != nil {
		return err
	}
	if string(out.GetStdout()) != "to stdout\n" || len(out.GetStderr()) > 0 {
		return fmt.Errorf("a command that prints to stdout gave %q and %q", out.GetStdout(), out.GetStderr())
	}
	if string(errOut.GetStderr()) != "to stderr\n" || len(errOut.GetStdout()) > 0 {
		return fmt.Errorf("a command that prints to stderr gave %q and %q", errOut.GetStdout(), errOut.GetStderr())
	}
	return nil
}

func checkExecCap(ctx context.Context, s *subject) error {
	b, err := s.sleeping(ctx)
	if err != nil {
		return err
	}
	const printed, most, least = 20 << 20, 16 << 20, 8 << 20 // gRPC's limit may leave less than 16 MB
	resp, err := b.execSync(ctx, fmt.Sprintf("fill %d", printed), 0)
	if err != nil {
		return fmt.Errorf("of a command that prints %d bytes: %w", printed, err)
	}
	if n := len(resp.GetStdout()); resp.GetExitCode() != 0 || n > most || n < least {
		return fmt.Errorf("ExecSync of a command that prints %d bytes returned %d, exit code %d", printed, n, resp.GetExitCode())
	}
	return nil
}

func checkExecLeaves(ctx context.Context, s *subject) error {
	b, err := s.sleeping(ctx)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, execPatience)
	defer cancel()
	out, err := b.exec(ctx, "leave sleep 20")
	if ctx.Err() != nil {
		return fmt.Errorf("the command ended at once and left a child with its stdout: ExecSync has not answered after %v", execPatience)
	}
	if err == nil && out != "" {
		return fmt.Errorf("the command printed %q", out)
	}
	return err
}

func checkExecStopped(ctx context.Context, s *subject) error {
	b, err := s.watched(ctx, forever)
	if err != nil {
		return err
	}
	var late lateError
	if err := b.timesOut(ctx, "ignore-term"); errors.As(err, &late) {
		return err
	}
	return until(ctx, time.Second, func() error {
		pids, err := b.pids()
		if err == nil && len(pids) != 1 {
			return fmt.Errorf("when the command's time is up the container has the processes %v, want its own alone", pids)
		}
		return err
	})
}

func checkExecSurvives(ctx context.Context, s *subject) error {
	b, err := s.sleeping(ctx)
	if err != nil {
		return err
	}
	var late lateError
	if err := b.timesOut(ctx, forever); errors.As(err, &late) {
		return err
	}
	out, err := b.exec(ctx, "echo still here")
	if err == nil && out != "still here\n" {
		return fmt.Errorf("the next command printed %q", out)
	}
	return err
}

func checkExecInEnded(ctx context.Context, s *subject) error {
	b, err := s.box(ctx, "exit 0")
	if err != nil {
		return err
	}
	if _, err := b.exited(ctx); err != nil {
		return err
	}
	if resp, err := b.execSync(ctx, "echo x", 0); err == nil {
		return fmt.Errorf("ExecSync in a container that has ended answered with code %d", resp.GetExitCode())
	}
	return nil
}

func checkExecNoProgram(ctx context.Context, s *subject) error {
	b, err := s.sleeping(ctx)
	if err != nil {
		return err
	}
	if resp, err := s.execRaw(ctx, b, "/no/such/program"); err == nil && resp.GetExitCode() == 0 {
		return errors.New("ExecSync of a program that is not there answered with code 0")
	}
	return b.alive(ctx)
}

func checkExecUser(ctx context.Context, s *subject) error {
	b, err := s.box(ctx, "do", do("cat /proc/self/status", "echo complete", forever), runAs(1000, 1001), caps(nil, []string{"ALL"}))
	if err != nil {
		return err
	}
	if err := b.says(ctx, "complete"); err != nil {
		return err
	}
	own, _, err := b.printed()
	if err != nil {
		return err
	}
	theirs, err := b.exec(ctx, "cat /proc/self/status")
	if err != nil {
		return err
	}
	for _, field := range []string{"Uid", "Gid", "Groups", "CapEff", "CapBnd", "NoNewPrivs", "Seccomp"} {
		if a, b := statusField(own, field), statusField(theirs, field); a != b {
			return fmt.Errorf("the container has %s %q, and a command in it %q", field, a, b)
		}
	}
	return nil
}

// statusField returns a field of proc_pid_status(5), its parts separated by one space.
func statusField(status, field string) string {
	for line := range strings.Lines(status) {
		if value, ok := strings.CutPrefix(line, field+":"); ok {
			return strings.Join(strings.Fields(value), " ")
		}
	}
	return ""
}

// meetTime is how long a command waits for the other: much longer than any runtime
// takes to start a command, on any machine.
const meetTime = 20 * time.Second

// checkExecTogether runs two commands, each of which ends when the other runs.
func checkExecTogether(ctx context.Context, s *subject) error {
	b, err := s.sleeping(ctx)
	if err != nil {
		return err
	}
	dir := "/"
	if s.target.missing([]Feature{Isolation}) != nil {
		dir = s.in.TempDir // on this machine, like everything that the container sees
	}
	one, other := filepath.Join(dir, s.mark+"-one"), filepath.Join(dir, s.mark+"-other")
	answers := make(chan error, 2)
	meet := func(own, other string) {
		resp, err := s.execRaw(ctx, b, s.tool(), "do", "write "+own+" here", "wait-file --timeout "+meetTime.String()+" "+other)
		if err == nil && resp.GetExitCode() != 0 {
			err = fmt.Errorf("of two commands at the same time one has not met the other within %v: one waits for another (%s)", meetTime, resp.GetStderr())
		}
		answers <- err
	}
	go meet(one, other)
	go meet(other, one)
	return errors.Join(<-answers, <-answers)
}

// execRaw runs a program that is not podtool.
func (s *subject) execRaw(ctx context.Context, b *box, cmd ...string) (*runtimeapi.ExecSyncResponse, error) {
	return s.Runtime.ExecSync(ctx, &runtimeapi.ExecSyncRequest{ContainerId: b.id, Cmd: cmd})
}

// alive returns nil when the container runs.
func (b *box) alive(ctx context.Context) error {
	return b.in(ctx, runtimeapi.ContainerState_CONTAINER_RUNNING)
}
