package procstat

import (
	"errors"
	"io/fs"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"
)

// rest is a line from its third field on, with the number of each field from 24 on.
const rest = " S 7 1 1 0 -1 4194560 10 11 12 13 14 15 16 17 20 0 1 0 2201 4096 " +
	"24 25 26 27 28 29 30 31 32 33 34 35 36 37 38 39 40 41 42 43 44 45 46 47 48 49 50 51 52\n"

func TestParse(t *testing.T) {
	for _, comm := range []string{"sleep", "", "a b", ")", "(", ") Z 1 (", "x) R 2 3", "two\nlines", "((sd-pam))"} {
		want := Stat{
			Comm: comm, State: 'S', PPID: 7, Flags: 4194560,
			Threads: 1, StartTime: 2201, VSize: 4096, EnvStart: 50, EnvEnd: 51, ExitCode: 52,
		}
		got, err := parse([]byte("12 (" + comm + ")" + rest))
		if diff := cmp.Diff(want, got); err != nil || diff != "" {
			t.Errorf("with the name %q: %v\n%s", comm, err, diff)
		}
	}
}

func TestParseRefuses(t *testing.T) {
	for line, part := range map[string]string{
		"":                        "has no name",
		"12 sleep" + rest:         "has no name",
		"12 )sleep(" + rest:       "has no name",
		"12 (sleep)":              "ends before field 52",
		"12 (sleep) S 7 1 1 0 -1": "ends before field 52",
		"12 (sleep)" + strings.Replace(rest, "51 52", "51", 1):     "ends before field 52",
		"12 (sleep)" + strings.Replace(rest, " 7 ", " seven ", 1):  "field 4: ",
		"12 (sleep)" + strings.Replace(rest, " 2201 ", " -1 ", 1):  "field 22: ",
		"12 (sleep)" + strings.Replace(rest, " 52", " 0x1", 1):     "field 52: ",
		"12 (sleep)" + strings.Replace(rest, "4194560", "some", 1): "field 9: ",
	} {
		if s, err := parse([]byte(line)); err == nil || !strings.Contains(err.Error(), part) || s != (Stat{}) {
			t.Errorf("%q: %+v, %v; want an error with %q", line, s, err, part)
		}
	}
}

func FuzzParse(f *testing.F) {
	f.Add([]byte("12 (a b)" + rest))
	f.Add([]byte(")("))
	f.Fuzz(func(t *testing.T, line []byte) {
		if s, err := parse(line); err == nil && s.State == 0 {
			t.Errorf("%q has no state", line)
		}
	})
}

// TestFailure: the kernel answers ENOENT for what was gone before the open, ESRCH for
// what went before the read.
func TestFailure(t *testing.T) {
	for number, gone := range map[unix.Errno]bool{unix.ENOENT: true, unix.ESRCH: true, unix.EACCES: false, unix.EMFILE: false} {
		err := failure(7, &fs.PathError{Op: "read", Path: "/proc/7/stat", Err: number})
		if errors.Is(err, fs.ErrNotExist) != gone || errors.Is(err, unix.ESRCH) != gone || !errors.Is(err, number) && !gone {
			t.Errorf("of %v: %v", number, err)
		}
	}
}
