package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"time"
)

func runWrite(_ *tool, _ context.Context, args []string) error {
	return writeLine(args, os.O_TRUNC)
}

func runAppend(_ *tool, _ context.Context, args []string) error {
	return writeLine(args, os.O_APPEND)
}

func writeLine(args []string, how int) error {
	args, err := flags(args, 2, nil)
	if err != nil {
		return err
	}
	f, err := os.OpenFile(args[0], os.O_WRONLY|os.O_CREATE|how, 0o644)
	if err != nil {
		return err
	}
	_, err = io.WriteString(f, args[1]+"\n")
	return errors.Join(err, f.Close())
}

func runCat(t *tool, _ context.Context, args []string) error {
	args, err := flags(args, -1, nil)
	if err != nil {
		return err
	}
	for _, path := range args {
		f, err := os.Open(path)
		if err != nil {
			return err
		}
		_, err = io.Copy(t.stdout, f)
		if err := errors.Join(err, f.Close()); err != nil {
			return err
		}
	}
	return nil
}

func runCheckFile(_ *tool, _ context.Context, args []string) error {
	args, err := flags(args, 2, nil)
	if err != nil {
		return err
	}
	content, err := os.ReadFile(args[0])
	if err != nil {
		return err
	}
	if got := strings.TrimSpace(string(content)); got != args[1] {
		return fmt.Errorf("%s has %q, want %q", args[0], got, args[1])
	}
	return nil
}

func runMkdir(_ *tool, _ context.Context, args []string) error {
	args, err := flags(args, 1, nil)
	if err != nil {
		return err
	}
	return os.Mkdir(args[0], 0o755)
}

// runOpen changes nothing, and reports whether it may open the file.
func runOpen(_ *tool, _ context.Context, args []string) error {
	args, err := flags(args, 1, nil)
	if err != nil {
		return err
	}
	f, err := os.OpenFile(args[0], os.O_RDWR, 0)
	if err != nil {
		return err
	}
	return f.Close()
}

func runWaitFile(_ *tool, ctx context.Context, args []string) error {
	timeout := 30 * time.Second
	args, err := flags(args, 1, func(fs *flag.FlagSet) { fs.DurationVar(&timeout, "timeout", timeout, "") })
	if err != nil {
		return err
	}
	for deadline := time.Now().Add(timeout); ; {
		_, err := os.Stat(args[0])
		if err == nil || !errors.Is(err, fs.ErrNotExist) {
			return err
		}
		if time.Now().After(deadline) {
			return fmt.Errorf("%s is not there after %v", args[0], timeout)
		}
		if err := wait(ctx, 10*time.Millisecond); err != nil {
			return err
		}
	}
}

func runLs(t *tool, _ context.Context, args []string) error {
	args, err := flags(args, -1, nil)
	if err != nil {
		return err
	}
	for _, path := range args {
		fi, err := os.Lstat(path)
		if err != nil {
			return err
		}
		if !fi.IsDir() {
			listOne(t.stdout, path, fi)
			continue
		}
		entries, err := os.ReadDir(path)
		if err != nil {
			return err
		}
		for _, e := range entries {
			fi, err := e.Info()
			if errors.Is(err, fs.ErrNotExist) {
				continue // gone meanwhile
			}
			if err != nil {
				return err
			}
			listOne(t.stdout, filepath.Join(path, e.Name()), fi)
		}
	}
	return nil
}

func listOne(w io.Writer, path string, fi fs.FileInfo) {
	st := fi.Sys().(*syscall.Stat_t)
	name := fi.Name()
	if fi.Mode()&fs.ModeSymlink != 0 {
		if target, err := os.Readlink(path); err == nil {
			name += " -> " + target
		}
	}
	fmt.Fprintf(w, "%v %d:%d %d %s\n", fi.Mode(), st.Uid, st.Gid, fi.Size(), name)
}

func runStatDevice(t *tool, _ context.Context, args []string) error {
	args, err := flags(args, 1, nil)
	if err != nil {
		return err
	}
	fi, err := os.Stat(args[0])
	if err != nil {
		return err
	}
	if fi.Mode()&fs.ModeDevice == 0 {
		return fmt.Errorf("%s is no device: %v", args[0], fi.Mode())
	}
	kind := "block"
	if fi.Mode()&fs.ModeCharDevice != 0 {
		kind = "character"
	}
	major, minor := deviceNumber(fi.Sys().(*syscall.Stat_t).Rdev)
	_, err = fmt.Fprintf(t.stdout, "%s %d:%d\n", kind, major, minor)
	return err
}

// deviceNumber splits Linux's 64-bit dev_t (makedev(3)). Other systems have narrower
// ones.
func deviceNumber[T ~int32 | ~uint32 | ~uint64](number T) (major, minor uint64) {
	dev := uint64(number)
	return dev>>32&0xfffff000 | dev>>8&0xfff, dev>>12&0xffffff00 | dev&0xff
}
