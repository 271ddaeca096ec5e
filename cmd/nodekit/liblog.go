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

// logLibraries has them log to l. The last one counts.
func logLibraries(l *slog.Logger) {
	hooks := logrus.LevelHooks{}
	hooks.Add(logrushook.NewHook(l, nil))
	logrus.StandardLogger().ReplaceHooks(hooks)
}
