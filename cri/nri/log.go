package nri

import (
	"context"
	"fmt"
	"log/slog"
	"sync"
	"sync/atomic"

	"github.com/containerd/nri/pkg/log"
)

// shared is the only logger of NRI's package. It is set once, because plugins of an
// earlier runtime in this process may log at any time.
var shared logger

type logger struct {
	once sync.Once
	to   atomic.Pointer[slog.Logger]
}

// logTo has NRI's package log to l from now on.
func logTo(l *slog.Logger) {
	shared.to.Store(l)
	shared.once.Do(func() { log.Set(&shared) })
}

func (l *logger) log(ctx context.Context, level slog.Level, format string, a []any) {
	l.to.Load().Log(ctx, level, "nri: "+fmt.Sprintf(format, a...))
}

func (l *logger) Debugf(ctx context.Context, f string, a ...any) { l.log(ctx, slog.LevelDebug, f, a) }

func (l *logger) Infof(ctx context.Context, f string, a ...any) { l.log(ctx, slog.LevelInfo, f, a) }

func (l *logger) Warnf(ctx context.Context, f string, a ...any) { l.log(ctx, slog.LevelWarn, f, a) }

func (l *logger) Errorf(ctx context.Context, f string, a ...any) { l.log(ctx, slog.LevelError, f, a) }
