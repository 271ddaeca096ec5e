//go:build !linux

package manifest

import (
	"context"
	"log/slog"
)

// watch has no events on this system; the directory is listed from time to time.
func watch(context.Context, string, *slog.Logger) <-chan []string { return nil }
