package log_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/nodekit-project/nodekit/cri/log"
	"github.com/nodekit-project/nodekit/internal/syncbuf"
)

var noon = time.Date(2026, 1, 2, 12, 0, 0, 5, time.UTC)

const stamp = "2026-01-02T12:00:00.000000005Z "

func TestAppend(t *testing.T) {
	long := strings.Repeat("x", log.MaxContent)
	for _, tc := range []struct {
		name, data string
		flush      bool
		want       string
		left       int
	}{
		{name: "a line", data: "hello\n", want: "stdout F hello\n"},
		{name: "two lines and a rest", data: "a\nb\nrest", want: "stdout F a\nstdout F b\n", left: 4},
		{name: "the rest flushed", data: "a\nrest", flush: true, want: "stdout F a\nstdout P rest\n"},
		{name: "an empty line", data: "\n", want: "stdout F \n"},
		{name: "nothing to flush", data: "", flush: true},
		{name: "a line of exactly the limit", data: long + "\n", want: "stdout F " + long + "\n"},
		{name: "the limit without an end", data: long, left: log.MaxContent},
		{name: "one byte over the limit", data: long + "y\n", want: "stdout P " + long + "\nstdout F y\n"},
		{name: "one byte over, no end yet", data: long + "y", want: "stdout P " + long + "\n", left: 1},
		{name: "a carriage return is content", data: "a\r\n", want: "stdout F a\r\n"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			got, n := log.Append(nil, noon, log.Stdout, []byte(tc.data), tc.flush)
			want := strings.ReplaceAll(tc.want, "stdout ", stamp+"stdout ")
			if string(got) != want {
				t.Errorf("got %.200q\nwant %.200q", got, want)
			}
			if left := len(tc.data) - n; left != tc.left {
				t.Errorf("%d bytes left, want %d", left, tc.left)
			}
		})
	}
}

func TestParse(t *testing.T) {
	for _, bad := range []string{
		"", "hello", stamp + "stdout", stamp + "stdin F x", stamp + "stdout X x", "yesterday stdout F x",
	} {
		if rec, err := log.Parse([]byte(bad)); err == nil {
			t.Errorf("Parse(%q) = %+v, want an error", bad, rec)
		}
	}
	rec, err := log.Parse([]byte(stamp + "stderr P:later:tags  two  spaces "))
	if err != nil || !rec.Partial || rec.Stream != log.Stderr || !rec.Time.Equal(noon) || string(rec.Content) != " two  spaces " {
		t.Errorf("got %+v, %v", rec, err)
	}
}

// What goes in comes out, whatever the pieces it was written in.
func FuzzRoundTrip(f *testing.F) {
	f.Add([]byte("a\nb\n\nc"), 3)
	f.Add([]byte(strings.Repeat("x", 3*log.MaxContent)+"\n"), 1000)
	f.Add([]byte{0, '\n', 255, ' '}, 1)
	f.Fuzz(func(t *testing.T, data []byte, piece int) {
		piece = max(piece, 1+len(data)/64)
		path := filepath.Join(t.TempDir(), "0.log")
		w, err := log.Open(filepath.Split(path))
		if err != nil {
			t.Fatal(err)
		}
		out := w.Stream(log.Stdout)
		for rest := data; len(rest) > 0; {
			n := min(piece, len(rest))
			if _, err := out.Write(rest[:n]); err != nil {
				t.Fatal(err)
			}
			rest = rest[n:]
		}
		if err := errors.Join(out.Close(), w.Close()); err != nil {
			t.Fatal(err)
		}
		var got bytes.Buffer
		if err := log.Read(t.Context(), path, &got, nil, nil); err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(got.Bytes(), data) {
			t.Errorf("got %.100q, want %.100q", got.Bytes(), data)
		}
	})
}

// A reader never fails on what it finds in a file, and Tail never shows more
// than the whole log does.
func FuzzRead(f *testing.F) {
	f.Add([]byte(stamp+"stdout F a\n"+stamp+"stdout P b\n"), int64(1))
	f.Add([]byte("\n\n"+stamp+"stdout F a"), int64(2))
	f.Fuzz(func(t *testing.T, file []byte, tail int64) {
		path := filepath.Join(t.TempDir(), "0.log")
		if err := os.WriteFile(path, file, 0o600); err != nil {
			t.Fatal(err)
		}
		var all, end bytes.Buffer
		if err := log.Read(t.Context(), path, &all, &all, nil); err != nil {
			t.Fatal(err)
		}
		if err := log.Read(t.Context(), path, &end, &end, &log.ReadOptions{Tail: &tail}); err != nil {
			t.Fatal(err)
		}
		if !bytes.HasSuffix(all.Bytes(), end.Bytes()) {
			t.Errorf("tail %d of %q is %q, which does not end %q", tail, file, end.Bytes(), all.Bytes())
		}
	})
}

func TestReadOptions(t *testing.T) {
	path := filepath.Join(t.TempDir(), "0.log")
	var file []byte
	for i := range 5 {
		file, _ = log.Append(file, noon.Add(time.Duration(i)*time.Second), log.Stdout, fmt.Appendf(nil, "line %d\n", i), false)
	}
	file, _ = log.Append(file, noon.Add(5*time.Second), log.Stderr, []byte("parts "), true)
	file, _ = log.Append(file, noon.Add(6*time.Second), log.Stderr, []byte("of one\n"), true)
	if err := os.WriteFile(path, append(file, "not a record\n2026-01-02T12:00:09Z stdout F unfinished"...), 0o600); err != nil {
		t.Fatal(err)
	}
	two, none := int64(2), int64(0)
	for _, tc := range []struct {
		name string
		opts *log.ReadOptions
		want string
	}{
		{"everything", nil, "line 0\nline 1\nline 2\nline 3\nline 4\nparts of one\n"},
		{"the last two", &log.ReadOptions{Tail: &two}, "line 4\nparts of one\n"},
		{"none", &log.ReadOptions{Tail: &none}, ""},
		{"since", &log.ReadOptions{Since: noon.Add(4 * time.Second)}, "line 4\nparts of one\n"},
		{"since the last two", &log.ReadOptions{Tail: &two, Since: noon.Add(5 * time.Second)}, "parts of one\n"},
		{
			"timestamps", &log.ReadOptions{Tail: &two, Timestamps: true},
			"2026-01-02T12:00:04.000000005Z line 4\n2026-01-02T12:00:05.000000005Z parts of one\n",
		},
	} {
		t.Run(tc.name, func(t *testing.T) {
			var out bytes.Buffer
			if err := log.Read(t.Context(), path, &out, &out, tc.opts); err != nil {
				t.Fatal(err)
			}
			if out.String() != tc.want {
				t.Errorf("got %q, want %q", out.String(), tc.want)
			}
		})
	}
	var stderr bytes.Buffer
	if err := log.Read(t.Context(), path, nil, &stderr, nil); err != nil || stderr.String() != "parts of one\n" {
		t.Errorf("stderr alone: %q, %v", stderr.String(), err)
	}
	if err := log.Read(t.Context(), path+".absent", nil, nil, nil); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("an absent file: %v", err)
	}
}

// lines is a writer that a test waits on.
type lines struct{ syncbuf.Buffer }

func (l *lines) await(t *testing.T, want string) {
	t.Helper()
	for end := time.Now().Add(5 * time.Second); l.String() != want; time.Sleep(time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("got %.300q, want %.300q", l.String(), want)
		}
	}
}

func TestFollowOverRotations(t *testing.T) {
	path := filepath.Join(t.TempDir(), "0.log")
	var out lines
	ended, read := make(chan struct{}), make(chan error, 1)
	go func() {
		read <- log.Read(t.Context(), path, &out, &out, &log.ReadOptions{Follow: true, Ended: ended})
	}()
	w, err := log.Open(filepath.Split(path))
	if err != nil {
		t.Fatal(err)
	}
	s := w.Stream(log.Stdout)
	var want strings.Builder
	for i := range 50 {
		line := fmt.Sprintf("line %d\n", i)
		want.WriteString(line)
		if _, err := s.Write([]byte(line)); err != nil {
			t.Fatal(err)
		}
		if i%7 == 3 { // at times two rotations come before the reader looks
			if err := os.Rename(path, fmt.Sprintf("%s.20260102-%06d", path, i)); err != nil {
				t.Fatal(err)
			}
			if err := w.Reopen(); err != nil {
				t.Fatal(err)
			}
		}
		if i%10 == 9 || i == 0 {
			out.await(t, want.String())
		}
	}
	_, _ = s.Write([]byte("last words"))
	if err := errors.Join(s.Close(), w.Close()); err != nil {
		t.Fatal(err)
	}
	close(ended)
	if err := <-read; err != nil {
		t.Error(err)
	}
	out.await(t, want.String()+"last words")
}

func TestFollowEndsWithItsContext(t *testing.T) {
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
	defer cancel()
	err := log.Read(ctx, filepath.Join(t.TempDir(), "never.log"), nil, nil, &log.ReadOptions{Follow: true})
	if !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("got %v", err)
	}
}

func TestFollowATruncatedFile(t *testing.T) {
	path := filepath.Join(t.TempDir(), "0.log")
	w, err := log.Open(filepath.Split(path))
	if err != nil {
		t.Fatal(err)
	}
	defer w.Close()
	var out lines
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan struct{})
	go func() {
		defer close(done)
		_ = log.Read(ctx, path, &out, nil, &log.ReadOptions{Follow: true})
	}()
	defer func() { cancel(); <-done }()
	s := w.Stream(log.Stdout)
	_, _ = s.Write([]byte("a long line before\n"))
	out.await(t, "a long line before\n")
	if err := os.Truncate(path, 0); err != nil {
		t.Fatal(err)
	}
	_, _ = s.Write([]byte("after\n"))
	out.await(t, "a long line before\nafter\n")
}

// What is no log does not fill the memory, and the records after it are read.
// TestFollowARecordThatIsTakenBack: half a record that finds no room is taken away again by
// its writer. A follower that has seen it neither begins anew nor takes it for a part of the
// next one.
func TestFollowARecordThatIsTakenBack(t *testing.T) {
	const one, half, two = "2026-01-01T00:00:00Z stdout F one\n", "2026-01-01T00:00:01Z stdout F ha", "2026-01-01T00:00:02Z stdout F two\n"
	for name, pause := range map[string]time.Duration{"seen": 50 * time.Millisecond, "not seen": 0} {
		path := filepath.Join(t.TempDir(), "0.log")
		f, err := os.OpenFile(path, os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o600)
		if err != nil {
			t.Fatal(err)
		}
		defer f.Close()
		write := func(text string) {
			if _, err := f.WriteString(text); err != nil {
				t.Fatal(err)
			}
		}
		var out lines
		ended, done := make(chan struct{}), make(chan error, 1)
		go func() { done <- log.Read(t.Context(), path, &out, nil, &log.ReadOptions{Follow: true, Ended: ended}) }()
		write(one)
		out.await(t, "one\n")
		write(half)
		time.Sleep(50 * time.Millisecond) // it is read
		if err := f.Truncate(int64(len(one))); err != nil {
			t.Fatal(err)
		}
		time.Sleep(pause)
		write(two)
		out.await(t, "one\ntwo\n")
		close(ended)
		if err := <-done; err != nil || out.String() != "one\ntwo\n" {
			t.Errorf("%s: %q, %v; want two lines", name, out.String(), err)
		}
	}
}

func TestReadPassesOverWhatIsTooLong(t *testing.T) {
	path := filepath.Join(t.TempDir(), "log")
	junk := strings.Repeat("x", 3<<20)
	if err := os.WriteFile(path, []byte(stamp+"stdout F first\n"+junk+"\n"+stamp+"stdout F last\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	one, ten := int64(1), int64(10)
	for want, o := range map[string]*log.ReadOptions{"first\nlast\n": {Tail: &ten}, "last\n": {Tail: &one}} {
		var out bytes.Buffer
		if err := log.Read(t.Context(), path, &out, nil, o); err != nil || out.String() != want {
			t.Errorf("tail %d: got %q, %v, want %q", *o.Tail, out.String(), err, want)
		}
	}
	var out bytes.Buffer
	if err := log.Read(t.Context(), path, &out, nil, nil); err != nil || out.String() != "first\nlast\n" {
		t.Errorf("got %q, %v", out.String(), err)
	}
}

// growing appends a record to a log whenever something of it is written.
type growing struct {
	bytes.Buffer
	path string
}

func (g *growing) Write(b []byte) (int, error) {
	f, err := os.OpenFile(g.path, os.O_WRONLY|os.O_APPEND, 0)
	if err == nil {
		_, err = f.WriteString(stamp + "stdout F late\n")
		err = errors.Join(err, f.Close())
	}
	return len(b), errors.Join(err, func() error { _, err := g.Buffer.Write(b); return err }())
}

// TestReadWhileItGrows: without Follow what is written meanwhile is not read, so that a
// tail of one line is one.
func TestReadWhileItGrows(t *testing.T) {
	path := filepath.Join(t.TempDir(), "0.log")
	const lines = 5000 // more than is read at once
	if err := os.WriteFile(path, []byte(strings.Repeat(stamp+"stdout F x\n", lines)), 0o600); err != nil {
		t.Fatal(err)
	}
	g := &growing{path: path}
	if err := log.Read(t.Context(), path, g, nil, nil); err != nil || g.String() != strings.Repeat("x\n", lines) {
		t.Errorf("%d bytes were read, %v", g.Len(), err)
	}
}
