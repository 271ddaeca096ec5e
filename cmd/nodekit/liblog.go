package main

import (
	"io"
	"log/slog"

	"github.com/sirupsen/logrus"
	logrushook "github.com/sirupsen/logrus/hooks/slog"
)

// silenceLibraries keeps what some libraries log (the wire of NRI plugins, cgroups) from
// standard error, where it would be among what a command says. They have one logger in a
// process.
func silenceLibraries() { logrus.SetOutput(io.Discard) }

// logLibraries has them log to l, in detail only: what matters they return as an error,
// and the wire calls it one that a plugin leaves. The last l counts.
func logLibraries(l *slog.Logger) {
	hooks := logrus.LevelHooks{}
	hooks.Add(logrushook.NewHook(l, &logrushook.HookOptions{
		LevelMapper: func(logrus.Level) slog.Level { return slog.LevelDebug },
	}))
	logrus.StandardLogger().ReplaceHooks(hooks)
}
