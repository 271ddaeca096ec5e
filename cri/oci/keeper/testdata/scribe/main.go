// Command scribe writes to its standard output and standard error in every way that the
// kernel has for a pipe. What it writes follows from its argument, a number: it is in the
// files "want1" and "want2" before the first byte is written. It ends with 1 when a write
// fails, and with the number's remainder by 90 and 10 more otherwise.
package main

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"strconv"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

func main() {
	seed, err := strconv.ParseUint(os.Args[1], 10, 64)
	if err == nil {
		err = scribble(rand.New(rand.NewPCG(seed, 0)))
	}
	if err != nil {
		_ = os.WriteFile("failed", []byte(err.Error()), 0o600)
		os.Exit(1)
	}
	os.Exit(int(seed%90) + 10)
}

// stroke is something to write, and how.
type stroke struct {
	text  []byte
	pause time.Duration // before
	way   func(fd int, text []byte) error
}

var ways = []func(fd int, text []byte) error{atOnce, inPieces, reopened, inPackets, fromFile, fromMemory, resized, withoutBlocking}

// sizes are those around a page, a record, and what a pipe holds.
var sizes = []int{1, 2, 100, 1000, 4095, 4096, 4097, 16383, 16384, 16385, 32768, 65535, 65536, 65537, 200_000}

// scribble writes both outputs at the same time.
func scribble(random *rand.Rand) error {
	var strokes [2][]stroke
	for i := range strokes {
		var want []byte
		for range 2 + random.IntN(12) {
			s := stroke{text: text(random, sizes[random.IntN(len(sizes))]), way: ways[random.IntN(len(ways))]}
			if random.IntN(3) == 0 {
				s.pause = time.Duration(random.IntN(40)) * time.Millisecond
			}
			want = append(want, s.text...)
			strokes[i] = append(strokes[i], s)
		}
		if err := os.WriteFile(fmt.Sprint("want", i+1), want, 0o600); err != nil {
			return err
		}
	}
	var errs [2]error
	var both sync.WaitGroup
	for i := range strokes {
		both.Go(func() { errs[i] = write(i+1, strokes[i]) })
	}
	both.Wait()
	return errors.Join(errs[:]...)
}

func write(fd int, strokes []stroke) error {
	for _, s := range strokes {
		time.Sleep(s.pause)
		if err := s.way(fd, s.text); err != nil {
			return err
		}
	}
	return nil
}

// text is a part of a line, some lines, or what no text has.
func text(random *rand.Rand, size int) []byte {
	b := make([]byte, size)
	for i := range b {
		b[i] = 'a' + byte(i%26)
	}
	switch random.IntN(5) {
	case 0: // no end
	case 1:
		b[size-1] = '\n'
	case 2:
		b[0] = '\n'
	case 3:
		for i := range b {
			if random.IntN(40) == 0 {
				b[i] = '\n'
			}
		}
	case 4:
		b = b[:min(size, 20_000)]
		for i := range b {
			b[i] = "\r\n\x00\xff x"[random.IntN(6)]
		}
	}
	return b
}

// all calls until everything is written.
func all(text []byte, call func(rest []byte) (int, error)) error {
	for len(text) > 0 {
		n, err := call(text)
		switch {
		case errors.Is(err, unix.EINTR):
		case errors.Is(err, unix.EAGAIN):
			time.Sleep(time.Millisecond)
		case err != nil:
			return err
		default:
			text = text[n:]
		}
	}
	return nil
}

func atOnce(fd int, text []byte) error {
	return all(text, func(rest []byte) (int, error) { return unix.Write(fd, rest) })
}

func inPieces(fd int, text []byte) error {
	piece := 1 + len(text)/100
	return all(text, func(rest []byte) (int, error) { return unix.Write(fd, rest[:min(piece, len(rest))]) })
}

func reopened(fd int, text []byte) error {
	again, err := unix.Open(fmt.Sprintf("/proc/self/fd/%d", fd), unix.O_WRONLY, 0)
	if err != nil {
		return err
	}
	return errors.Join(atOnce(again, text), unix.Close(again))
}

func inPackets(fd int, text []byte) error { return mode(fd, unix.O_DIRECT, text, inPieces) }

func withoutBlocking(fd int, text []byte) error { return mode(fd, unix.O_NONBLOCK, text, atOnce) }

// mode writes with a flag set.
func mode(fd, flag int, text []byte, way func(fd int, text []byte) error) error {
	if _, err := unix.FcntlInt(uintptr(fd), unix.F_SETFL, unix.O_WRONLY|flag); err != nil {
		return err
	}
	err := way(fd, text)
	_, ferr := unix.FcntlInt(uintptr(fd), unix.F_SETFL, unix.O_WRONLY)
	return errors.Join(err, ferr)
}

// fromFile has the kernel put the pages of a file into the pipe, which is gone then.
func fromFile(fd int, text []byte) error {
	f, err := os.CreateTemp(".", "pages")
	if err != nil {
		return err
	}
	defer f.Close()
	if _, err := f.Write(text); err != nil {
		return err
	}
	var offset int64
	err = all(text, func(rest []byte) (int, error) { return unix.Sendfile(fd, int(f.Fd()), &offset, len(rest)) })
	return errors.Join(err, f.Truncate(0), os.Remove(f.Name()))
}

// fromMemory has the kernel put pages of this process into the pipe.
func fromMemory(fd int, text []byte) error {
	return all(text, func(rest []byte) (int, error) {
		part := unix.Iovec{Base: &rest[0]}
		part.SetLen(len(rest))
		return unix.Vmsplice(fd, []unix.Iovec{part}, 0)
	})
}

// resized makes the pipe hold less or more.
func resized(fd int, text []byte) error {
	size := []int{4096, 8192, 65536, 1 << 20}[len(text)%4]
	_, err := unix.FcntlInt(uintptr(fd), unix.F_SETPIPE_SZ, size)
	if errors.Is(err, unix.EBUSY) { // it holds more now
		err = nil
	}
	return errors.Join(err, atOnce(fd, text))
}
