package criclientsuite

import (
	"context"
	"errors"
	"fmt"

	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/nodekit-project/nodekit/conformance"
)

func containerFieldRules() []rule {
	return []rule{
		must("CRIC-CFG-001", "passes command, arguments and working directory on",
			"ContainerConfig.command", "Command to execute (i.e., entrypoint for docker)", asksContainer(func(p *v1.Pod) {
				c := &p.Spec.Containers[0]
				c.Command, c.Args, c.WorkingDir = []string{"run", "a b"}, []string{"--to", "$(TO)", "$$(TO)"}, "/tmp/suite"
				c.Env = []v1.EnvVar{{Name: "TO", Value: "there"}}
			}, func(r *runtimeapi.CreateContainerRequest) error {
				c := r.GetConfig()
				return errors.Join(words("command", c.GetCommand(), []string{"run", "a b"}), words("args", c.GetArgs(), []string{"--to", "there", "$(TO)"}),
					want("working_dir", c.GetWorkingDir(), "/tmp/suite"))
			})),
		must("CRIC-CFG-002", "passes the environment on, with what it refers to",
			"ContainerConfig.envs", "List of environment variable to set in the container.", asksContainer(environment, lookEnvironment)),
		must("CRIC-CFG-003", "asks for a terminal and stdin where the Pod does",
			"ContainerConfig.stdin", "Variables for interactive containers, these have very specialized use-cases (e.g. debugging).", asksContainer(func(p *v1.Pod) {
				c := &p.Spec.Containers[0]
				c.Stdin, c.StdinOnce, c.TTY = true, true, true
			}, func(r *runtimeapi.CreateContainerRequest) error {
				c := r.GetConfig()
				return errors.Join(want("stdin", c.GetStdin(), true), want("stdin_once", c.GetStdinOnce(), true), want("tty", c.GetTty(), true))
			})),
		must("CRIC-CFG-004", "asks for neither where the Pod does not",
			"ContainerConfig.stdin", "Variables for interactive containers, these have very specialized use-cases (e.g. debugging).", asksContainer(nil, func(r *runtimeapi.CreateContainerRequest) error {
				c := r.GetConfig()
				return errors.Join(want("stdin", c.GetStdin(), false), want("tty", c.GetTty(), false))
			})),
		must("CRIC-CFG-005", "passes a stop signal on",
			"ContainerConfig.stop_signal", "The custom stop signal for the container", asksContainer(func(p *v1.Pod) {
				usr1 := v1.SIGUSR1
				p.Spec.OS, p.Spec.Containers[0].Lifecycle = &v1.PodOS{Name: v1.Linux}, &v1.Lifecycle{StopSignal: &usr1}
			}, func(r *runtimeapi.CreateContainerRequest) error {
				return want("stop_signal", r.GetConfig().GetStopSignal(), runtimeapi.Signal_SIGNAL_SIGUSR1)
			}), StopSignals),
		relied("CRIC-CFG-006", "passes on what a device plugin gave",
			"device plugins", "A container that asks for a device gets what Allocate answered for it.", checkDevice),
	}
}

func environment(p *v1.Pod) {
	p.Spec.Containers[0].Env = []v1.EnvVar{
		{Name: "PLAIN", Value: "a=b c"},
		{Name: "LINES", Value: " one\n two \n"},
		{Name: "REFERS", Value: "[$(PLAIN)]"},
		{Name: "EMPTY"},
		{Name: "SPACE", ValueFrom: &v1.EnvVarSource{FieldRef: &v1.ObjectFieldSelector{FieldPath: "metadata.namespace"}}},
	}
}

func lookEnvironment(r *runtimeapi.CreateContainerRequest) error {
	got := map[string]string{}
	for _, e := range r.GetConfig().GetEnvs() {
		if _, twice := got[e.GetKey()]; twice {
			return fmt.Errorf("the variable %q is there twice", e.GetKey())
		}
		got[e.GetKey()] = string(e.GetValue())
	}
	return wantPairs("the variables", got, map[string]string{"PLAIN": "a=b c", "LINES": " one\n two \n", "REFERS": "[a=b c]", "EMPTY": "", "SPACE": "default"})
}

func checkDevice(ctx context.Context, l *lab) error {
	if l.target.Device == "" {
		return conformance.NotApplicable("no device is declared that the kubelet has")
	}
	without, err := l.pod()
	if err != nil {
		return err
	}
	plain, err := without.container(ctx)
	if err != nil {
		return err
	}
	if n := gifts(plain); n > 0 {
		return fmt.Errorf("a container that asks for no device has %d", n)
	}
	one := v1.ResourceList{v1.ResourceName(l.target.Device): resource.MustParse("1")}
	s, err := l.pod(func(p *v1.Pod) { p.Spec.Containers[0].Resources = v1.ResourceRequirements{Limits: one, Requests: one} })
	if err != nil {
		return err
	}
	req, err := s.container(ctx)
	if err != nil {
		return err
	}
	if gifts(req) == 0 {
		return fmt.Errorf("a container that asks for one %s has neither devices nor CDI devices", l.target.Device)
	}
	for _, d := range req.GetConfig().GetDevices() {
		if d.GetHostPath() == "" || d.GetContainerPath() == "" || d.GetPermissions() == "" {
			return fmt.Errorf("the device %v: want a path on the host and in the container, and permissions", d)
		}
	}
	return nil
}

func gifts(r *runtimeapi.CreateContainerRequest) int {
	return len(r.GetConfig().GetDevices()) + len(r.GetConfig().GetCDIDevices())
}
