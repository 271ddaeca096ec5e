//go:build !linux

package image

import (
	"context"
	"io"

	"github.com/containerd/containerd/v2/pkg/archive"

	"github.com/nodekit-project/nodekit/internal/fault"
)

func notLinux(what string) error {
	return fault.Unimplemented.Errorf("%s works on Linux only", what)
}

func applyLayer(context.Context, string, io.Reader, archive.Filter, *impliedDirs) error {
	return notLinux("unpacking image layers")
}

func copyAttributes(string, string, []string) error { return notLinux("unpacking image layers") }

func hidesAllBelow(string) (bool, error) { return false, notLinux("mounting root file systems") }

func syncFS(string) error { return notLinux("unpacking image layers") }

func diskUsage(string) (bytes, inodes uint64, err error) {
	return 0, 0, notLinux("measuring disk usage")
}
