package oci

import (
	"bytes"
	"fmt"
	"io"
	"os"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/nodekit-project/nodekit/cri"
	"github.com/nodekit-project/nodekit/internal/testenv"
)

// stalling is a client that does not read for a while.
type stalling struct {
	bytes.Buffer
	stall time.Duration
}

func (s *stalling) Write(p []byte) (int, error) {
	time.Sleep(s.stall)
	s.stall = 0
	return s.Buffer.Write(p)
}

func hostsNull() (*os.File, error) { return os.OpenFile(os.DevNull, os.O_RDWR, 0) }

// TestNulls: a null device works, for every user, and is a file of its own.
func TestNulls(t *testing.T) {
	testenv.Require(t, testenv.Root)
	defer unix.Umask(unix.Umask(0o077))
	var n nulls
	defer n.close()
	seen := map[[2]uint64]bool{}
	for i := range 3 {
		f, err := n.open()
		if err != nil {
			t.Fatal(err)
		}
		defer f.Close()
		var st unix.Stat_t
		if err := unix.Fstat(int(f.Fd()), &st); err != nil {
			t.Fatal(err)
		}
		if st.Rdev != unix.Mkdev(1, 3) || st.Mode != unix.S_IFCHR|0o666 || st.Nlink != 0 {
			t.Errorf("device %d:%d, mode %o, %d names", unix.Major(st.Rdev), unix.Minor(st.Rdev), st.Mode, st.Nlink)
		}
		seen[[2]uint64{st.Dev, st.Ino}] = true
		if _, err := f.WriteString("x"); err != nil {
			t.Error(err)
		}
		if text, err := io.ReadAll(f); len(text) > 0 || err != nil {
			t.Errorf("it reads %q, %v", text, err)
		}
		if i == 1 { // as a runtime that ends
			if err := n.close(); err != nil {
				t.Fatal(err)
			}
		}
	}
	if len(seen) != 3 {
		t.Errorf("3 devices are %d files", len(seen))
	}
}

// TestDrainWaitsForSlowClient: what a program wrote before its end reaches a client that
// pauses for longer than output is waited for, even if another process holds the streams
// or keeps writing.
func TestDrainWaitsForSlowClient(t *testing.T) {
	for name, after := range map[string]func(*execStreams){
		"all closed": func(x *execStreams) { x.closeChild() },
		"held":       func(*execStreams) {},
		"written on": func(x *execStreams) {
			go func() {
				for {
					if _, err := x.child[1].Write(make([]byte, 512)); err != nil {
						return // it was cut
					}
				}
			}()
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			client := &stalling{stall: drainLimit + drainLimit/2}
			s := cri.Streams{Stdout: client, Stderr: io.Discard}
			x, err := newExecStreams(s, hostsNull)
			if err != nil {
				t.Fatal(err)
			}
			defer x.close()
			x.copy(s, nil)
			// More than one read takes, and so some of it is still in the pipe.
			text := bytes.Repeat([]byte("0123456789abcdef"), 5<<10)
			if _, err := x.child[1].Write(text); err != nil {
				t.Fatal(err)
			}
			after(x)
			begun := time.Now()
			x.drain(t.Context())
			x.closeChild()
			if !bytes.HasPrefix(client.Bytes(), text) {
				t.Errorf("the client got %d bytes of %d", client.Len(), len(text))
			}
			if took := time.Since(begun); took > 10*drainLimit {
				t.Errorf("it took %v", took)
			}
		})
	}
}

// TestTerminalOpenedAgain: a terminal that no process has open has not ended while the
// program runs: the program may have closed it, and one of its processes may open it
// again.
func TestTerminalOpenedAgain(t *testing.T) {
	fd, err := unix.Open("/dev/ptmx", unix.O_RDWR|unix.O_NOCTTY|unix.O_NONBLOCK|unix.O_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	master := os.NewFile(uintptr(fd), "terminal")
	number, err := unix.IoctlGetInt(fd, unix.TIOCGPTN)
	if err == nil {
		err = unix.IoctlSetPointerInt(fd, unix.TIOCSPTLCK, 0)
	}
	if err != nil {
		t.Fatal(err)
	}
	write := func(text string) {
		t.Helper()
		slave, err := os.OpenFile(fmt.Sprint("/dev/pts/", number), os.O_RDWR|unix.O_NOCTTY, 0)
		if err != nil {
			t.Fatal(err)
		}
		defer slave.Close()
		if _, err := slave.WriteString(text); err != nil {
			t.Fatal(err)
		}
	}
	var client bytes.Buffer
	s := cri.Streams{Stdout: &client, TTY: true}
	x, err := newExecStreams(s, hostsNull)
	if err != nil {
		t.Fatal(err)
	}
	defer x.close()
	write("one ")
	x.copy(s, master)
	for x.ways[0].written.Load() == 0 {
		time.Sleep(time.Millisecond)
	}
	time.Sleep(2 * terminalRest) // for the copy to see that nobody has it open
	write("two ")
	for x.ways[0].written.Load() < 8 && !x.ways[0].over.Load() {
		time.Sleep(time.Millisecond)
	}
	write("three")
	x.drain(t.Context())
	x.closeChild()
	if got := client.String(); got != "one two three" {
		t.Errorf("the client got %q, want all three", got)
	}
}
