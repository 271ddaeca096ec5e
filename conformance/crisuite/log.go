package crisuite

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/nodekit-project/nodekit/cri/log"
)

const (
	logSentence    = "Path relative to PodSandboxConfig.LogDirectory for container to store the log (STDOUT and STDERR) on the host."
	reopenSentence = "ReopenContainerLog asks runtime to reopen the stdout/stderr log file for the container. This is often called after the log file has been rotated."
)

func logRules() []rule {
	return []rule{
		must("CRI-LOG-001", "writes what a container prints to its log path, in records that the kubelet reads",
			"ContainerConfig", logSentence, checkLog, Containers),
		must("CRI-LOG-002", "tells stdout and stderr apart",
			"ContainerConfig", logSentence, checkLogStreams, Containers),
		relied("CRI-LOG-003", "writes a long line in parts that come to the line again",
			"kubectl logs", "The kubelet joins the records of a line by their tag P, and reads no more than a part at a time into memory.", checkLongLine, Containers),
		relied("CRI-LOG-004", "has written what a container printed last when its end is known",
			"kubectl logs", "The kubelet takes the log of a container that has ended for complete, and its last lines for the termination message.", checkLastLine, Containers),
		must("CRI-LOG-005", "goes on in a new file when the log was rotated",
			"ReopenContainerLog", reopenSentence, checkReopen, Containers, LogRotation),
		heavy(facto("CRI-LOG-006", "loses no line when the log is rotated while a container prints",
			"log rotation", "The kubelet rotates logs of running containers: it renames the file and has the runtime open it again.", checkReopenUnderLoad, Containers, LogRotation)),
		must("CRI-LOG-007", "makes no log file when it refuses to open one",
			"ReopenContainerLog", "If the container is not running, container runtime can choose to either create a new log file and return nil, or return an error. Once it returns error, new container log file MUST NOT be created.", checkReopenEnded, Containers, LogRotation),
		facto("CRI-LOG-008", "makes the directory of a log",
			"logs", "The kubelet makes the Pod's log directory and the container's; other clients rely on the runtime.", checkLogDir, Containers),
		facto("CRI-LOG-011", "joins a line that comes in pieces",
			"kubectl logs", "A line is what the program ends with a newline, however slowly it writes it: the records up to that one have the tag P, or are not there yet.", checkPieces, Containers),
		facto("CRI-LOG-012", "writes what a container prints byte by byte",
			"kubectl logs", "The content of a record is what the program printed: with its spaces, empty lines, and bytes that are no text.", checkLogBytes, Isolation),
		facto("CRI-LOG-009", "makes records with times that do not go back",
			"kubectl logs", "kubectl logs --since looks at the records' times.", checkLogTimes, Containers),
		relied("CRI-LOG-010", "leaves the log when it removes the container",
			"container GC", "The log of a container is the kubelet's to remove.", checkLogStays, Containers),
	}
}

func checkLog(ctx context.Context, s *subject) error {
	b, err := s.box(ctx, "echo hello")
	if err != nil {
		return err
	}
	if _, err := b.exited(ctx); err != nil {
		return err
	}
	return until(ctx, logTime, func() error {
		records, err := b.records()
		if err != nil {
			return err
		}
		if len(records) != 1 || string(records[0].Content) != "hello" || records[0].Stream != log.Stdout || records[0].Partial {
			return fmt.Errorf("the log has %+v, want %q as a whole line of stdout", records, "hello")
		}
		return nil
	})
}

// records parses the container's log, and requires all of it to be in the format.
func (b *box) records() (all []log.Record, err error) {
	data, err := os.ReadFile(b.logFile())
	if err != nil {
		return nil, fmt.Errorf("reading the container's log: %w", err)
	}
	for line := range bytes.Lines(data) {
		if line[len(line)-1] != '\n' {
			break // it is being written
		}
		rec, err := log.Parse(bytes.TrimSuffix(line, []byte{'\n'}))
		if err != nil {
			return nil, fmt.Errorf("the log is not in the CRI's format: %w", err)
		}
		all = append(all, rec)
	}
	return all, nil
}

// lines counts the lines of the log file.
func (b *box) lines() (int, error) {
	data, err := os.ReadFile(b.logFile())
	return bytes.Count(data, []byte{'\n'}), err
}

func checkLogStreams(ctx context.Context, s *subject) error {
	b, err := s.box(ctx, "do", do("echo one", "echo --stderr two", "sleep 20ms"))
	if err != nil {
		return err
	}
	if _, err := b.exited(ctx); err != nil {
		return err
	}
	return until(ctx, logTime, func() error {
		out, errOut, err := b.printed()
		if err == nil && (out != "one\n" || errOut != "two\n") {
			return fmt.Errorf("the log has %q of stdout and %q of stderr, want %q and %q", out, errOut, "one\n", "two\n")
		}
		return err
	})
}

func checkLongLine(ctx context.Context, s *subject) error {
	// Many times what a pipe holds: in the middle of its writes, the container has to
	// wait for the reader.
	const (
		long = 1_000_000
		most = 50_000
	)
	b, err := s.box(ctx, "do", do(fmt.Sprintf("fill %d", long), "echo end"))
	if err != nil {
		return err
	}
	if _, err := b.exited(ctx); err != nil {
		return err
	}
	return until(ctx, logTime, func() error {
		records, err := b.records()
		if err != nil {
			return err
		}
		var line []byte
		for i, r := range records {
			if len(r.Content) > most {
				return fmt.Errorf("a record of the log has %d bytes: a long line is written in parts", len(r.Content))
			}
			line = append(line, r.Content...)
			if last := i == len(records)-1; r.Partial == last {
				return fmt.Errorf("record %d of %d of one line: partial is %v", i+1, len(records), r.Partial)
			}
		}
		if want := strings.Repeat("x", long) + "end"; string(line) != want {
			return fmt.Errorf("the log has a line of %d bytes, want %d", len(line), len(want))
		}
		return nil
	})
}

// checkLastLine looks once, when the end is first known.
func checkLastLine(ctx context.Context, s *subject) error {
	const count = 2000
	b, err := s.box(ctx, fmt.Sprintf("lines %d", count))
	if err != nil {
		return err
	}
	if _, err := b.exited(ctx); err != nil {
		return err
	}
	time.Sleep(50 * time.Millisecond) // what the kubelet takes to look
	n, err := b.lines()
	if err == nil && n != count {
		return fmt.Errorf("when the container's end is known its log has %d lines of %d", n, count)
	}
	return err
}

func (b *box) reopen(ctx context.Context) error {
	if _, err := b.s.Runtime.ReopenContainerLog(ctx, &runtimeapi.ReopenContainerLogRequest{ContainerId: b.id}); err != nil {
		return fmt.Errorf("ReopenContainerLog: %w", err)
	}
	return nil
}

// rotate rotates the log as the kubelet does.
func (b *box) rotate(ctx context.Context, to string) error {
	if err := os.Rename(b.logFile(), b.logFile()+to); err != nil {
		return err
	}
	return b.reopen(ctx)
}

func checkReopen(ctx context.Context, s *subject) error {
	b, err := s.box(ctx, "lines --interval 10ms 0")
	if err != nil {
		return err
	}
	if err := b.says(ctx, "3\n"); err != nil {
		return err
	}
	if err := b.rotate(ctx, ".1"); err != nil {
		return err
	}
	if err := until(ctx, logTime, func() error {
		n, err := b.lines()
		if err == nil && n == 0 {
			return errors.New("the new log file stays empty")
		}
		return err
	}); err != nil {
		return fmt.Errorf("behind the rotation: %w", err)
	}
	old, err := os.ReadFile(b.logFile() + ".1")
	if err != nil {
		return err
	}
	time.Sleep(50 * time.Millisecond)
	now, err := os.ReadFile(b.logFile() + ".1")
	if err == nil && len(now) != len(old) {
		return errors.New("behind the rotation the old file still grows")
	}
	return err
}

func checkReopenUnderLoad(ctx context.Context, s *subject) error {
	const count, rotations = 30_000, 5
	b, err := s.box(ctx, fmt.Sprintf("lines %d", count))
	if err != nil {
		return err
	}
	for i := range rotations {
		if err := until(ctx, logTime, func() error { _, err := os.Stat(b.logFile()); return err }); err != nil {
			return err
		}
		if err := b.rotate(ctx, fmt.Sprintf(".%d", i)); err != nil {
			if st, statusErr := b.status(ctx); statusErr == nil && st.GetState() == runtimeapi.ContainerState_CONTAINER_EXITED {
				break // it ended before all rotations
			}
			return err
		}
		time.Sleep(5 * time.Millisecond)
	}
	if _, err := b.exited(ctx); err != nil {
		return err
	}
	return until(ctx, logTime, func() error { return b.complete(count, rotations) })
}

// complete returns nil when the log and its rotated files hold the numbers 1 to count, in
// order.
func (b *box) complete(count, rotations int) error {
	var all bytes.Buffer
	for i := range rotations {
		if err := log.Read(context.Background(), fmt.Sprintf("%s.%d", b.logFile(), i), &all, nil, nil); err != nil && !errors.Is(err, os.ErrNotExist) {
			return err
		}
	}
	if err := log.Read(context.Background(), b.logFile(), &all, nil, nil); err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	next := 1
	for line := range strings.Lines(all.String()) {
		if line != strconv.Itoa(next)+"\n" {
			return fmt.Errorf("behind line %d the log has %.40q", next-1, line)
		}
		next++
	}
	if next != count+1 {
		return fmt.Errorf("the log ends with line %d of %d", next-1, count)
	}
	return nil
}

func checkReopenEnded(ctx context.Context, s *subject) error {
	b, err := s.box(ctx, "echo x")
	if err != nil {
		return err
	}
	if _, err := b.exited(ctx); err != nil {
		return err
	}
	if err := until(ctx, logTime, func() error { return os.Rename(b.logFile(), b.logFile()+".1") }); err != nil {
		return err
	}
	reopened := b.reopen(ctx)
	_, err = os.Stat(b.logFile())
	switch {
	case reopened != nil && err == nil:
		return fmt.Errorf("ReopenContainerLog answered %w and made the file", reopened)
	case reopened == nil && err != nil:
		return fmt.Errorf("ReopenContainerLog of a container that has ended succeeded, and there is no file: %w", err)
	}
	return nil
}

func checkLogDir(ctx context.Context, s *subject) error {
	b, err := s.box(ctx, "echo hello", func(c *runtimeapi.ContainerConfig) { c.LogPath = filepath.Join("a-directory", "0.log") })
	if err != nil {
		return err
	}
	return b.says(ctx, "hello")
}

func checkPieces(ctx context.Context, s *subject) error {
	program := do("pieces --interval 60ms one two three", "echo end")
	return s.logsAll(ctx, program, "onetwothree\nend\n", "a line that came in three pieces")
}

func checkLogBytes(ctx context.Context, s *subject) error {
	program := do("cat /data/bytes", "sleep 20ms")
	return s.logsAll(ctx, program, oddBytes, fmt.Sprintf("a program that printed %q", oddBytes))
}

// logsAll returns nil when the log of a program that has ended becomes what is wanted.
func (s *subject) logsAll(ctx context.Context, program edit, want, of string) error {
	b, err := s.box(ctx, "do", program)
	if err != nil {
		return err
	}
	if _, err := b.exited(ctx); err != nil {
		return err
	}
	return until(ctx, logTime, func() error {
		out, _, err := b.printed()
		if err == nil && out != want {
			return fmt.Errorf("of %s the log has %q", of, out)
		}
		return err
	})
}

func checkLogTimes(ctx context.Context, s *subject) error {
	begin := time.Now().Add(-clockSlack)
	b, err := s.box(ctx, "lines --interval 2ms 20")
	if err != nil {
		return err
	}
	if _, err := b.exited(ctx); err != nil {
		return err
	}
	records, err := b.records()
	if err != nil {
		return err
	}
	last := begin
	for _, r := range records {
		if r.Time.Before(last) {
			return fmt.Errorf("a record of %v comes behind one of %v", r.Time, last)
		}
		last = r.Time
	}
	if last.After(time.Now().Add(clockSlack)) {
		return fmt.Errorf("the last record is of %v", last)
	}
	return nil
}

func checkLogStays(ctx context.Context, s *subject) error {
	b, err := s.box(ctx, "echo hello")
	if err != nil {
		return err
	}
	if _, err := b.exited(ctx); err != nil {
		return err
	}
	if err := b.says(ctx, "hello"); err != nil {
		return err
	}
	if err := b.remove(ctx); err != nil {
		return err
	}
	return b.says(ctx, "hello")
}
