package crisuite

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

const (
	commandSentence = "A container's command takes the place of its image's entrypoint, and of the image's command, too."
	argsSentence    = "A container's args take the place of its image's command."
)

func configRules() []rule {
	return []rule{
		relied("CRI-CONF-001", "runs the image's entrypoint and command when the config has neither",
			"containers", commandSentence, runs("of the image", nil, nil), Isolation, Pull),
		relied("CRI-CONF-002", "runs the image's entrypoint with the config's args",
			"containers", argsSentence, runs("of the config", nil, []string{"echo", "of", "the", "config"}), Isolation, Pull),
		relied("CRI-CONF-003", "runs the config's command without the image's",
			"containers", commandSentence, runs("from the command", []string{toolPath, "echo", "from", "the", "command"}, nil), Isolation, Pull),
		relied("CRI-CONF-004", "runs the config's command with its args",
			"containers", argsSentence, runs("of both", []string{toolPath, "echo"}, []string{"of", "both"}), Isolation, Pull),
		must("CRI-CONF-005", "gives a container its variables, before those of the image",
			"ContainerConfig", "List of environment variable to set in the container.", checkEnv, Isolation, Pull),
		must("CRI-CONF-006", "runs a container's program in its working directory",
			"ContainerConfig", "Current working directory of the command.", checkWorkingDir, Containers),
		facto("CRI-CONF-007", "gives a container a terminal when it asks for one",
			"tty", "A container with tty finds a terminal at its stdin and stdout.", checkTTY, Isolation),
		facto("CRI-CONF-008", "runs a container whose sandbox has no log directory",
			"logs", "Clients other than the kubelet want no log file; a runtime that makes up a path has overwritten files of the host.", checkNoLog, Containers),
		must("CRI-CONF-009", "gives a container its variables, whatever it has beside them",
			"ContainerConfig", "List of environment variable to set in the container.", checkOwnEnv, Containers),
	}
}

// runs returns a check of what a container of the command image prints.
func runs(want string, command, args []string) look {
	return func(ctx context.Context, s *subject) error {
		image, err := s.present(ctx, commandImage)
		if err != nil {
			return err
		}
		out, err := s.prints(ctx, "", func(c *runtimeapi.ContainerConfig) {
			c.Image.Image, c.Command, c.Args = image, command, args
		})
		if err == nil && strings.TrimSpace(out) != want {
			return fmt.Errorf("the container printed %q, want %q", strings.TrimSpace(out), want)
		}
		return err
	}
}

func checkEnv(ctx context.Context, s *subject) error {
	out, err := s.prints(ctx, "env", func(c *runtimeapi.ContainerConfig) {
		c.Envs = append(c.Envs, &runtimeapi.KeyValue{Key: "BOTH", Value: []byte("config")},
			&runtimeapi.KeyValue{Key: "ODD", Value: []byte("a=b \"c\"")}, &runtimeapi.KeyValue{Key: "EMPTY"})
	})
	if err != nil {
		return err
	}
	for _, want := range []string{"FROM=image", "BOTH=config", "ODD=a=b \"c\"", "EMPTY="} {
		if !strings.Contains("\n"+out, "\n"+want+"\n") {
			return fmt.Errorf("the container's environment is %q, want %q in it", out, want)
		}
	}
	if strings.Contains(out, "BOTH=image") {
		return fmt.Errorf("the container's environment has BOTH twice: %q", out)
	}
	return nil
}

func checkOwnEnv(ctx context.Context, s *subject) error {
	out, err := s.prints(ctx, "env SUITE_ODD SUITE_EMPTY", func(c *runtimeapi.ContainerConfig) {
		c.Envs = append(c.Envs, &runtimeapi.KeyValue{Key: "SUITE_ODD", Value: []byte("a=b \"c\"")}, &runtimeapi.KeyValue{Key: "SUITE_EMPTY"})
	})
	if err == nil && out != "a=b \"c\"\n\n" {
		return fmt.Errorf("the container's variables are %q", out)
	}
	return err
}

func checkWorkingDir(ctx context.Context, s *subject) error {
	where := "/data/sub"
	if s.target.Image != "" {
		where = "/dev" // exists everywhere
	}
	out, err := s.prints(ctx, "ls /proc/self/cwd", func(c *runtimeapi.ContainerConfig) { c.WorkingDir = where })
	if err == nil && !strings.Contains(out, "-> "+where+"\n") {
		return fmt.Errorf("the program's working directory is %q, want %s", strings.TrimSpace(out), where)
	}
	return err
}

func checkTTY(ctx context.Context, s *subject) error {
	b, err := s.box(ctx, "window", func(c *runtimeapi.ContainerConfig) { c.Tty = true })
	if err != nil {
		return err
	}
	return b.says(ctx, "columns")
}

func checkNoLog(ctx context.Context, s *subject) error {
	p, err := s.pod(ctx, func(c *runtimeapi.PodSandboxConfig) { c.LogDirectory = "" })
	if err != nil {
		return err
	}
	b, err := p.start(ctx, "echo unheard", func(c *runtimeapi.ContainerConfig) { c.LogPath = "" })
	if err != nil {
		return err
	}
	st, err := b.exited(ctx)
	if err != nil {
		return err
	}
	if st.GetExitCode() != 0 {
		return fmt.Errorf("the program ended with code %d", st.GetExitCode())
	}
	if info, err := os.Stat(st.GetLogPath()); st.GetLogPath() != "" && (err == nil && info.IsDir() || filepath.Dir(st.GetLogPath()) == "/") {
		return errors.New("ContainerStatus has the log path " + st.GetLogPath() + ", and nobody asked for a log")
	}
	return nil
}
