package cnisuite

import (
	"context"
	"fmt"
	"strings"

	"github.com/nodekit-project/nodekit/conformance"
)

// code4 is the sentence behind most rules of this file.
const code4 = "4: Invalid necessary environment variables, like CNI_COMMAND, CNI_CONTAINERID, etc. The error message must contain the names of invalid variables."

// environmentRules are about the variables of an execution.
func environmentRules() []conformance.Rule[Target] {
	const must = conformance.Must
	return []conformance.Rule[Target]{
		checked(rule("CNI-ENV-001", must, "an unknown CNI_COMMAND is an error of code 4 that names it", "Error", code4), checkUnknownCommand),
		checked(rule("CNI-ENV-002", must, "all missing variables are named at once, for every command that needs them", "Error", code4), checkAllMissing),
		checked(rule("CNI-ENV-003", must, "a CNI_CONTAINERID that is none is an error of code 4 that names the variable", "Parameters",
			"CNI_CONTAINERID: [...] Must not be empty. Must start with an alphanumeric character, optionally followed by any combination of one or more alphanumeric characters, underscore (), dot (.) or hyphen (-)."), checkBadContainerID),
		checked(rule("CNI-ENV-004", must, "a CNI_IFNAME that no interface can have is an error of code 4 that names the variable", "Parameters",
			"CNI_IFNAME: Name of the interface to create inside the container; if the plugin is unable to use this interface name it must return an error."), checkBadIfName),
		checked(rule("CNI-ENV-005", must, "a plugin that delegates nothing works without CNI_PATH", "ADD",
			"Optional environment parameters: CNI_ARGS, CNI_PATH"), checkNoPath),
		checked(rule("CNI-ENV-006", conformance.Should, "CNI_ARGS as Kubernetes sends it is accepted (de facto)", "Parameters",
			`CNI_ARGS: Extra arguments passed in by the user at invocation time. Alphanumeric key-value pairs separated by semicolons; for example, "FOO=BAR;ABC=123"`), checkKubernetesArgs),
	}
}

func checkUnknownCommand(ctx context.Context, l *lab) error {
	c, err := l.newContainer()
	if err != nil {
		return err
	}
	w := with{what: "CNI_COMMAND=FOO", env: map[string]string{"CNI_COMMAND": "FOO"}}
	return l.refusal(ctx, "ADD", c, w, 4, "CNI_COMMAND")
}

func checkAllMissing(ctx context.Context, l *lab) error {
	c, err := l.newContainer()
	if err != nil {
		return err
	}
	attach := []string{"CNI_CONTAINERID", "CNI_NETNS", "CNI_IFNAME"}
	for _, command := range []string{"ADD", "DEL", "CHECK"} {
		names := attach
		switch {
		case command == "DEL":
			names = []string{"CNI_CONTAINERID", "CNI_IFNAME"}
		case command == "CHECK" && !l.speaks("0.4.0"):
			continue
		}
		w := with{what: command + " without attachment variables", unset: attach}
		if err := l.refusal(ctx, command, c, w, 4, names...); err != nil {
			return err
		}
	}
	return nil
}

func checkBadContainerID(ctx context.Context, l *lab) error {
	return l.badVariable(ctx, "CNI_CONTAINERID", "../x", " ", "-a", "a/b", "a b")
}

func checkBadIfName(ctx context.Context, l *lab) error {
	if l.target.Kind == IPAM {
		return conformance.NotApplicable("an IPAM plugin makes no interface")
	}
	return l.badVariable(ctx, "CNI_IFNAME", "sixteen-letters-", "a/b", "a:b", "a b", "eth%d", ".", "..")
}

// badVariable runs an ADD for each of the values, which must all be refused.
func (l *lab) badVariable(ctx context.Context, name string, values ...string) error {
	c, err := l.newContainer()
	if err != nil {
		return err
	}
	for _, value := range values {
		w := with{what: fmt.Sprintf("ADD with %s=%q", name, value), env: map[string]string{name: value}}
		if err := l.refusal(ctx, "ADD", c, w, 4, name); err != nil {
			return err
		}
	}
	return nil
}

// delegation returns why the target needs CNI_PATH, or "".
func (l *lab) delegation() (string, error) {
	if l.target.Kind == Meta {
		return "a meta plugin finds other plugins on CNI_PATH", nil
	}
	kind, err := l.ipamType()
	if kind != "" {
		return fmt.Sprintf("the configuration delegates to %q, which is found on CNI_PATH", kind), nil
	}
	return "", err
}

// ipamType returns the type of the IPAM plugin that the target delegates to, or "".
func (l *lab) ipamType() (string, error) {
	config, err := l.target.config(l.state())
	if err != nil || l.target.Kind == IPAM {
		return "", err
	}
	ipam, _ := config["ipam"].(map[string]any)
	kind, _ := ipam["type"].(string)
	return kind, nil
}

func checkNoPath(ctx context.Context, l *lab) error {
	why, err := l.delegation()
	if err != nil {
		return err
	}
	if why != "" {
		return conformance.NotApplicable("%s", why)
	}
	c, err := l.newContainer()
	if err != nil {
		return err
	}
	for _, command := range []string{"ADD", "CHECK", "DEL"} {
		if command == "CHECK" && !l.speaks("0.4.0") {
			continue
		}
		out, err := l.call(ctx, command, c, with{what: command + " without CNI_PATH", unset: []string{"CNI_PATH"}})
		if err != nil {
			return err
		}
		if err := out.ok(nil); err != nil {
			return err
		}
		if command == "ADD" {
			c.result = out.stdout
		}
	}
	return nil
}

// checkKubernetesArgs sends what Kubernetes runtimes send, and a value that contains
// an equal sign, as base64 does.
func checkKubernetesArgs(ctx context.Context, l *lab) error {
	args := strings.Join([]string{
		"IgnoreUnknown=1", "K8S_POD_NAMESPACE=default", "K8S_POD_NAME=web-0",
		"K8S_POD_INFRA_CONTAINER_ID=0123456789abcdef", "K8S_POD_UID=4d5e", "SUITE_TOKEN=YQ==",
	}, ";")
	c, err := l.newContainer()
	if err != nil {
		return err
	}
	w := with{what: "ADD with CNI_ARGS=" + args, env: map[string]string{"CNI_ARGS": args}}
	if _, err := l.addWith(ctx, c, w); err != nil {
		return err
	}
	w.what = "DEL with CNI_ARGS=" + args
	return l.delWith(ctx, c, w)
}
