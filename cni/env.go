package cni

import (
	"errors"
	"fmt"
	"path/filepath"
	"strings"

	"github.com/nodekit-project/nodekit/internal/cniname"
)

// readEnv fills the request from CNI_*. It reports all problems at once, with the
// names of the variables (CNI 1.1.0, Error, code 4).
func (r *Request) readEnv(env map[string]string) error {
	r.ContainerID, r.IfName, r.NetNS = env["CNI_CONTAINERID"], env["CNI_IFNAME"], env["CNI_NETNS"]
	if env["CNI_PATH"] != "" {
		r.Path = filepath.SplitList(env["CNI_PATH"])
	}
	var problems []error
	switch r.Command {
	case CmdAdd, CmdCheck:
		problems = append(problems, checkID(r.ContainerID), checkIfName(r.IfName))
		if r.NetNS == "" {
			problems = append(problems, errors.New("CNI_NETNS is missing"))
		}
	case CmdDel:
		problems = append(problems, checkID(r.ContainerID), checkIfName(r.IfName))
	case CmdGC, CmdStatus:
		r.Attachment, r.NetNS = Attachment{}, ""
	case "":
		problems = append(problems, errors.New("CNI_COMMAND is missing"))
	default:
		problems = append(problems, fmt.Errorf("CNI_COMMAND is %q, which is no command of CNI", r.Command))
	}
	args, err := parseArgs(env["CNI_ARGS"])
	r.Args = args
	if err := errors.Join(append(problems, err)...); err != nil {
		return Errorf(CodeEnvironment, "%s", strings.ReplaceAll(err.Error(), "\n", "; "))
	}
	return nil
}

// traceOf returns the trace context that OpenTelemetry's conventions pass in the
// environment of child processes.
func traceOf(env map[string]string) string { return env["TRACEPARENT"] }

func checkID(id string) error {
	if id == "" {
		return errors.New("CNI_CONTAINERID is missing")
	}
	if !cniname.Valid(id) {
		return fmt.Errorf("CNI_CONTAINERID is %q: it must begin with a letter or digit and go on with those, '_', '.' and '-'", id)
	}
	return nil
}

func checkIfName(name string) error {
	if name == "" {
		return errors.New("CNI_IFNAME is missing")
	}
	if err := cniname.InterfaceName(name); err != nil {
		return fmt.Errorf("CNI_IFNAME: %w", err)
	}
	return nil
}

// parseArgs parses "A=1;B=2". A value may contain further equal signs.
func parseArgs(s string) (map[string]string, error) {
	args := map[string]string{}
	for pair := range strings.SplitSeq(s, ";") {
		if pair == "" {
			continue
		}
		key, value, ok := strings.Cut(pair, "=")
		if !ok || key == "" {
			return args, fmt.Errorf("CNI_ARGS has %q, which is no KEY=VALUE", pair)
		}
		args[key] = value
	}
	return args, nil
}
