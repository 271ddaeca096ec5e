package hostcheck

import (
	"unsafe"

	"golang.org/x/sys/unix"
)

func ioctl(fd int, request uintptr, arg *byte) error {
	_, _, errno := unix.Syscall(unix.SYS_IOCTL, uintptr(fd), request, uintptr(unsafe.Pointer(arg)))
	if errno != 0 {
		return errno
	}
	return nil
}
