package main

import (
	"io"
	"log/slog"

	"github.com/sirupsen/logrus"
	logrushook "github.com/sirupsen/logrus/hooks/slog"
)

// silenceLibraries discards the log of some libraries (the connection of NRI plugins,
// cgroups), which would mix with a command's output on standard error. They share one
// logger per process.
func silenceLibraries() { logrus.SetOutput(io.Discard) }

// logLibraries makes them log to l, at debug level only: they return what matters as an
// error, and the connection reports a plugin that leaves as one. The last l is used.
func logLibraries(l *slog.Logger) {
	hooks := logrus.LevelHooks{}
	hooks.Add(logrushook.NewHook(l, &logrushook.HookOptions{
		LevelMapper: func(logrus.Level) slog.Level { return slog.LevelDebug },
	}))
	logrus.StandardLogger().ReplaceHooks(hooks)
}
