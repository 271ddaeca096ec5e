// Command standin does what an OCI runtime does, as the keeper sees it: it
// starts a shell script, writes its process id to the file "pid" and ends
// without waiting for it. With a second argument the script gets a terminal, which
// is sent to that socket; and then the parent of the script ends a while after the
// program.
package main

import (
	"fmt"
	"net"
	"os"
	"os/exec"
	"strconv"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

func main() {
	var err error
	switch len(os.Args) {
	case 2:
		err = start(&syscall.ProcAttr{Files: []uintptr{0, 1, 2}})
	case 3:
		err = outlived()
	default:
		err = startOnTerminal(os.Args[2])
		time.Sleep(300 * time.Millisecond)
	}
	if err != nil {
		panic(err)
	}
}

// start starts the script.
func start(attr *syscall.ProcAttr) error {
	attr.Env = os.Environ()
	pid, err := syscall.ForkExec("/bin/sh", []string{"sh", "-c", os.Args[1]}, attr)
	if err != nil {
		return err
	}
	return os.WriteFile("pid", []byte(strconv.Itoa(pid)), 0o600)
}

// outlived has another process do the work, and waits until it is done but not for
// its end.
func outlived() error {
	cmd := exec.Command("/proc/self/exe", append(os.Args[1:], "again")...)
	cmd.Stderr = os.Stderr
	if err := cmd.Start(); err != nil {
		return err
	}
	for range 5000 {
		if text, _ := os.ReadFile("pid"); len(text) > 0 {
			return nil
		}
		time.Sleep(time.Millisecond)
	}
	return fmt.Errorf("the script was not started")
}

func startOnTerminal(socket string) error {
	master, err := os.OpenFile("/dev/ptmx", os.O_RDWR|unix.O_NOCTTY, 0)
	if err != nil {
		return err
	}
	defer master.Close()
	number, err := unix.IoctlGetInt(int(master.Fd()), unix.TIOCGPTN)
	if err == nil {
		err = unix.IoctlSetPointerInt(int(master.Fd()), unix.TIOCSPTLCK, 0)
	}
	if err != nil {
		return err
	}
	slave, err := os.OpenFile(fmt.Sprint("/dev/pts/", number), os.O_RDWR|unix.O_NOCTTY, 0)
	if err != nil {
		return err
	}
	defer slave.Close()
	conn, err := net.Dial("unix", socket)
	if err != nil {
		return err
	}
	defer conn.Close()
	_, _, err = conn.(*net.UnixConn).WriteMsgUnix([]byte("tty"), unix.UnixRights(int(master.Fd())), nil)
	if err != nil {
		return err
	}
	fd := slave.Fd()
	return start(&syscall.ProcAttr{Files: []uintptr{fd, fd, fd}, Sys: &syscall.SysProcAttr{Setsid: true, Setctty: true}})
}
