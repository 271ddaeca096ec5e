package criclientsuite_test

import (
	"bytes"
	"context"
	"errors"
	"path/filepath"
	"slices"
	"strings"
	"sync"

	"google.golang.org/protobuf/proto"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	kind "github.com/nodekit-project/nodekit/internal/fault"
)

func containerMutants() []mutant {
	return []mutant{
		{"CRIC-CTR-001", "creates it nowhere", "was not started", edit(func(r *runtimeapi.CreateContainerRequest) { r.PodSandboxId = "nowhere" }), nil},
		{"CRIC-CTR-002", "does not repeat the config", "sandbox_config", edit(func(r *runtimeapi.CreateContainerRequest) { r.SandboxConfig = nil }), nil},
		{"CRIC-CTR-002", "repeats another config", "sandbox_config", edit(func(r *runtimeapi.CreateContainerRequest) { r.SandboxConfig.PortMappings = nil }), nil},
		{"CRIC-CTR-003", "adds to the name", "the container's name", create(func(c *runtimeapi.ContainerConfig) { c.Metadata.Name += "-0" }), nil},
		{"CRIC-CTR-004", "begins with 1", "has the attempt 1", create(func(c *runtimeapi.ContainerConfig) { c.Metadata.Attempt++ }), nil},
		{"CRIC-CTR-005", "has an absolute path", "log_path is", create(func(c *runtimeapi.ContainerConfig) { c.LogPath = "/tmp/" + c.LogPath }), nil},
		{"CRIC-CTR-005", "has one log for all instances", "that of two instances", create(func(c *runtimeapi.ContainerConfig) {
			c.LogPath = strings.NewReplacer("1.log", "0.log").Replace(c.LogPath)
		}), nil},
		{"CRIC-CTR-006", "labels nothing", "the container's labels", create(func(c *runtimeapi.ContainerConfig) { c.Labels = nil }), nil},
		{"CRIC-CTR-007", "starts it twice", "called twice", again("StartContainer"), nil},
		{"CRIC-CTR-008", "creates it twice", "created twice", again("CreateContainer"), nil},
		{"CRIC-CFG-001", "drops arguments", "args are", create(func(c *runtimeapi.ContainerConfig) { c.Args = nil }), nil},
		{"CRIC-CFG-001", "leaves references as they are", "args are", create(func(c *runtimeapi.ContainerConfig) { c.Args = []string{"--to", "$(TO)", "$$(TO)"} }), nil},
		{"CRIC-CFG-002", "drops the environment", "the variables", create(func(c *runtimeapi.ContainerConfig) { c.Envs = nil }), nil},
		{"CRIC-CFG-002", "has a variable twice", "is there twice", create(func(c *runtimeapi.ContainerConfig) { c.Envs = append(c.Envs, c.Envs[0]) }), nil},
		{"CRIC-CFG-002", "trims values", "LINES", create(func(c *runtimeapi.ContainerConfig) {
			for _, e := range c.Envs {
				e.Value = bytes.TrimSpace(e.Value)
			}
		}), nil},
		{"CRIC-CFG-003", "has no stdin", "stdin is false", create(func(c *runtimeapi.ContainerConfig) { c.Stdin = false }), nil},
		{"CRIC-CFG-004", "has a terminal always", "tty is true", create(func(c *runtimeapi.ContainerConfig) { c.Tty = true }), nil},
		{"CRIC-CFG-005", "drops the stop signal", "stop_signal", create(func(c *runtimeapi.ContainerConfig) { c.StopSignal = 0 }), nil},
		{"CRIC-CFG-006", "drops devices", "neither devices nor CDI devices", create(func(c *runtimeapi.ContainerConfig) { c.Devices, c.CDIDevices = nil, nil }), nil},
		{"CRIC-CFG-006", "gives a device to all", "asks for no device", create(func(c *runtimeapi.ContainerConfig) {
			c.Devices = append(c.Devices, &runtimeapi.Device{HostPath: "/dev/null", ContainerPath: "/dev/gift", Permissions: "r"})
		}), nil},
	}
}

// mounted edits the mounts of new containers.
func mounted(change func(*runtimeapi.Mount)) fault {
	return create(func(c *runtimeapi.ContainerConfig) {
		for _, m := range c.Mounts {
			change(m)
		}
	})
}

func mountMutants() []mutant {
	return []mutant{
		{"CRIC-MNT-001", "has relative paths", "want absolute paths", mounted(func(m *runtimeapi.Mount) { m.ContainerPath = strings.TrimPrefix(m.ContainerPath, "/") }), nil},
		{"CRIC-MNT-001", "makes nothing on the host", "no such file", mounted(func(m *runtimeapi.Mount) { m.HostPath += "-not" }), nil},
		{"CRIC-MNT-002", "mounts all writable", "readonly of the other", mounted(func(m *runtimeapi.Mount) { m.Readonly = false }), nil},
		{"CRIC-MNT-002", "mounts all read-only", "readonly of the plain", mounted(func(m *runtimeapi.Mount) { m.Readonly = true }), nil},
		{"CRIC-MNT-003", "propagates nothing", "propagation of", mounted(func(m *runtimeapi.Mount) { m.Propagation = 0 }), nil},
		{"CRIC-MNT-004", "knows no recursive read-only mounts", "was not called", fault{}, without},
		{"CRIC-MNT-005", "knows no images as volumes", "was not called", fault{}, without},
		{"CRIC-MNT-006", "has no files of its own", "nothing is mounted at", create(func(c *runtimeapi.ContainerConfig) { c.Mounts = nil }), nil},
	}
}

func securityMutants() []mutant {
	type security = runtimeapi.LinuxContainerSecurityContext
	one := &runtimeapi.Int64Value{Value: 1}
	return []mutant{
		{"CRIC-SEC-001", "takes the Pod's user", "run_as_user", secure(func(s *security) { s.RunAsUser = one }), nil},
		{"CRIC-SEC-002", "sets a group alone", "run_as_group is set", secure(func(s *security) { s.RunAsUser, s.RunAsUsername = nil, "" }), nil},
		{"CRIC-SEC-003", "drops no capabilities", "drop_capabilities", secure(func(s *security) { s.Capabilities.DropCapabilities = nil }), nil},
		{"CRIC-SEC-003", "adds no capabilities", "add_capabilities", secure(func(s *security) { s.Capabilities.AddCapabilities = nil }), nil},
		{"CRIC-SEC-003", "adds one capability", "add_capabilities", secure(func(s *security) { s.Capabilities.AddCapabilities = s.Capabilities.AddCapabilities[:1] }), nil},
		{"CRIC-SEC-004", "knows no privileged containers", "privileged", secure(func(s *security) { s.Privileged = false }), nil},
		{"CRIC-SEC-005", "makes all privileged", "privileged", secure(func(s *security) { s.Privileged = true }), nil},
		{"CRIC-SEC-006", "leaves the root writable", "readonly_rootfs", secure(func(s *security) { s.ReadonlyRootfs = false }), nil},
		{"CRIC-SEC-007", "allows new privileges", "no_new_privs", secure(func(s *security) { s.NoNewPrivs = false }), nil},
		{"CRIC-SEC-008", "takes the Pod's profile", "seccomp profile", secure(func(s *security) { s.Seccomp.ProfileType = runtimeapi.SecurityProfile_Unconfined }), nil},
		{"CRIC-SEC-008", "sets no profile", "not set", secure(func(s *security) { s.Seccomp = nil }), nil},
		{"CRIC-SEC-009", "names the profile as the Pod does", "absolute path", secure(func(s *security) { s.Seccomp.LocalhostRef = "suite/strict.json" }), nil},
		{"CRIC-SEC-010", "masks nothing", "want /proc/kcore", secure(func(s *security) { s.MaskedPaths = nil }), nil},
		{"CRIC-SEC-011", "drops groups", "is missing", secure(func(s *security) { s.SupplementalGroups = nil }), nil},
		{"CRIC-SEC-012", "merges always", "supplemental_groups_policy", secure(func(s *security) { s.SupplementalGroupsPolicy = 0 }), nil},
		{"CRIC-SEC-013", "knows no AppArmor", "was not called", fault{}, without},
		{"CRIC-SEC-014", "passes the SELinux level alone", "SELinux type", secure(func(s *security) {
			s.SelinuxOptions = &runtimeapi.SELinuxOption{Level: s.SelinuxOptions.GetLevel()}
		}), nil},
		{"CRIC-SEC-014", "drops SELinux options", "SELinux level", secure(func(s *security) { s.SelinuxOptions = nil }), nil},
		{"CRIC-SEC-015", "leaves the masks to the runtime", "masked_paths are", secure(func(s *security) { s.MaskedPaths = nil }), nil},
		{"CRIC-SEC-015", "leaves what is read-only to the runtime", "is in neither", secure(func(s *security) { s.ReadonlyPaths = nil }), nil},
		{"CRIC-SEC-015", "forgets one path", "/proc/sysrq-trigger is in neither", secure(func(s *security) {
			s.ReadonlyPaths = slices.DeleteFunc(s.ReadonlyPaths, func(p string) bool { return p == "/proc/sysrq-trigger" })
		}), nil},
		{"CRIC-SEC-016", "knows no user namespaces", "was not called", fault{}, without},
	}
}

func resourceMutants() []mutant {
	type resources = runtimeapi.LinuxContainerResources
	return []mutant{
		{"CRIC-RES-001", "weighs all the same", "cpu_shares", limit(func(r *resources) { r.CpuShares = 1024 }), nil},
		{"CRIC-RES-002", "has no quota", "cpu_quota", limit(func(r *resources) { r.CpuQuota = 0 }), nil},
		{"CRIC-RES-003", "bounds by the request", "memory_limit_in_bytes", limit(func(r *resources) { r.MemoryLimitInBytes = 32 << 20 }), nil},
		{"CRIC-RES-004", "bounds what has no limits", "has no limits", limit(func(r *resources) { r.MemoryLimitInBytes = 1 << 30 }), nil},
		{"CRIC-RES-005", "has one score for all", "want it to grow", limit(func(r *resources) { r.OomScoreAdj = 100 }), nil},
	}
}

func orderMutants() []mutant {
	early := func(method, of, container string) fault {
		return before(method, func(c *exchange) {
			if c.container == of && c.first(method+" "+c.pod) {
				c.attempt(container, nil)
			}
		})
	}
	return []mutant{
		{"CRIC-ORD-001", "begins with the app container", "in the order", early("CreateContainer", "first", "main"), nil},
		{"CRIC-ORD-001", "does not wait for an init container", "StartContainer of second, StartContainer of first", early("StartContainer", "first", "second"), nil},
		{"CRIC-ORD-002", "goes on after a failure", "the app container was created", onExit(func(c *exchange) { c.attempt("main", nil) }), nil},
		{"CRIC-ORD-003", "runs init containers once", "was started 1 times", giveUp("CreateContainer"), nil},
		{"CRIC-ORD-004", "begins without the sidecar", "CreateContainer of init, StartContainer of init, CreateContainer of sidecar", early("CreateContainer", "sidecar", "init"), nil},
	}
}

func restartMutants() []mutant {
	restart := onExit(func(c *exchange) { c.attempt(c.container, more) })
	return []mutant{
		{"CRIC-RST-001", "starts once", "was started 1 times", giveUp("CreateContainer"), nil},
		{"CRIC-RST-002", "starts once", "was started 1 times", giveUp("CreateContainer"), nil},
		{"CRIC-RST-003", "restarts whatever ends", "how often", restart, nil},
		{"CRIC-RST-004", "restarts whatever ends", "how often", restart, nil},
		{"CRIC-RST-005", "does not wait", "times within", onExit(func(c *exchange) {
			for i := range 5 {
				c.attempt(c.container, func(r *runtimeapi.CreateContainerRequest) { r.Config.Metadata.Attempt += uint32(5 + i) })
			}
		}), nil},
		{"CRIC-RST-006", "removes what has ended", "RemoveContainer was called", onExit(func(c *exchange) {
			_, _ = c.rt.RemoveContainer(c.ctx, &runtimeapi.RemoveContainerRequest{ContainerId: c.Request.(*runtimeapi.ContainerStatusRequest).ContainerId})
		}), nil},
	}
}

func containerFaultMutants() []mutant {
	var turn sync.Mutex
	oneByOne := fault{ask: func(c *exchange) (proto.Message, error) {
		if c.Method == "RunPodSandbox" {
			turn.Lock()
		}
		return nil, nil
	}, told: func(c *exchange, resp proto.Message, err error) (proto.Message, error) {
		if c.Method == "RunPodSandbox" {
			turn.Unlock()
		}
		return resp, err
	}}
	return []mutant{
		{"CRIC-FLT-001", "tries once", "was not called", giveUp("CreateContainer"), nil},
		{"CRIC-FLT-002", "runs the first, too", "2 instances", fault{ask: func(c *exchange) (proto.Message, error) {
			if r, ok := c.Request.(*runtimeapi.CreateContainerRequest); ok && c.n > 1 {
				c.startAll(r.PodSandboxId)
				more(r)
			}
			if c.Method == "RemoveContainer" || c.Method == "StopContainer" {
				return &runtimeapi.RemoveContainerResponse{}, nil
			}
			return nil, nil
		}}, alone},
		{"CRIC-FLT-003", "tries once", "was not called", both(giveUp("StartContainer"), giveUp("CreateContainer")), nil},
		{"CRIC-FLT-004", "does not wait", "times within", hurry("CreateContainer"), nil},
		{"CRIC-FLT-005", "does not expect that a container goes", "was started 1 times", panics("ContainerStatus", "CreateContainer"), nil},
		{"CRIC-FLT-006", "makes one sandbox at a time", "of another Pod is not answered", oneByOne, nil},
		{"CRIC-FLT-007", "believes what it has seen", "was not started again", stale(), alone},
	}
}

// startAll starts what was created in a sandbox.
func (c *exchange) startAll(sandbox string) {
	list, err := c.rt.ListContainers(c.ctx, &runtimeapi.ListContainersRequest{Filter: &runtimeapi.ContainerFilter{PodSandboxId: sandbox}})
	if err != nil {
		return
	}
	for _, item := range list.Containers {
		_, _ = c.rt.StartContainer(c.ctx, &runtimeapi.StartContainerRequest{ContainerId: item.Id})
	}
}

// stale never shows that a container has ended, where all are listed.
func stale() fault {
	return pretend(func(c *exchange, m *runtimeapi.ListContainersResponse) {
		if c.pod != "" {
			return
		}
		for _, item := range m.Containers {
			item.State = runtimeapi.ContainerState_CONTAINER_RUNNING
		}
	})
}

func imageMutants() []mutant {
	image := func(change func(*runtimeapi.ImageSpec)) fault {
		return create(func(c *runtimeapi.ContainerConfig) { change(c.Image) })
	}
	pull := func(c *exchange, ref string) {
		_, _ = c.im.PullImage(c.ctx, &runtimeapi.PullImageRequest{Image: &runtimeapi.ImageSpec{Image: ref}})
	}
	return []mutant{
		{"CRIC-IMG-001", "pulls twice", "called 2 times", again("PullImage"), nil},
		{"CRIC-IMG-002", "pulls always", "how often PullImage was called", before("CreateContainer", func(c *exchange) {
			pull(c, c.Request.(*runtimeapi.CreateContainerRequest).Config.Image.UserSpecifiedImage)
		}), nil},
		{"CRIC-IMG-003", "pulls what is missing only", "how often PullImage was called", fault{ask: func(c *exchange) (proto.Message, error) {
			r, ok := c.Request.(*runtimeapi.PullImageRequest)
			if !ok {
				return nil, nil
			}
			have, err := c.im.ImageStatus(c.ctx, &runtimeapi.ImageStatusRequest{Image: r.Image})
			return &runtimeapi.PullImageResponse{ImageRef: have.GetImage().GetId()}, err
		}}, nil},
		{"CRIC-IMG-004", "pulls what it must not", "PullImage was called", after("ImageStatus", func(c *exchange, _ proto.Message) {
			pull(c, c.Request.(*runtimeapi.ImageStatusRequest).Image.Image)
		}), nil},
		{"CRIC-IMG-005", "creates by the name", "the container's image", image(func(i *runtimeapi.ImageSpec) { i.Image = i.UserSpecifiedImage }), nil},
		{"CRIC-IMG-006", "keeps the name to itself", "user_specified_image", image(func(i *runtimeapi.ImageSpec) { i.UserSpecifiedImage = "" }), nil},
		{"CRIC-IMG-007", "pulls for nobody", "sandbox_config of PullImage", edit(func(r *runtimeapi.PullImageRequest) { r.SandboxConfig = nil }), nil},
		{"CRIC-IMG-008", "does not wait", "times within", hurry("PullImage"), nil},
		{"CRIC-IMG-009", "removes what is in use", "in use or pinned", before("StartContainer", func(c *exchange) {
			_, _ = c.im.RemoveImage(c.ctx, &runtimeapi.RemoveImageRequest{Image: c.creation(c.pod, c.container).Config.Image})
		}), nil},
	}
}

func execMutants() []mutant {
	run := func(c *exchange, id string) {
		_, _ = c.rt.ExecSync(c.ctx, &runtimeapi.ExecSyncRequest{ContainerId: id, Cmd: []string{"suite-exit", "0"}, Timeout: 1})
	}
	timeout := func(m proto.Message) int64 { return m.(*runtimeapi.ExecSyncRequest).Timeout }
	ok := &runtimeapi.ExecSyncResponse{}
	return []mutant{
		{"CRIC-EXE-001", "has one timeout for all", "timeout is 1", edit(func(r *runtimeapi.ExecSyncRequest) { r.Timeout = 1 }), nil},
		{"CRIC-EXE-001", "runs a shell", "cmd are", edit(func(r *runtimeapi.ExecSyncRequest) { r.Cmd = append([]string{"sh", "-c"}, r.Cmd...) }), nil},
		{"CRIC-EXE-002", "waits for the timeout alone", "the call ends after", punctual("ExecSync", timeout), nil},
		{"CRIC-EXE-003", "does not look at the code", "was started 1 times", pretend(func(_ *exchange, m *runtimeapi.ExecSyncResponse) { m.ExitCode = 0 }), nil},
		{"CRIC-EXE-004", "takes no answer for a good one", "was started 1 times", fault{told: func(c *exchange, resp proto.Message, err error) (proto.Message, error) {
			if c.Method == "ExecSync" && err != nil {
				return ok, nil
			}
			return resp, err
		}}, nil},
		{"CRIC-EXE-005", "probes what was created", "before StartContainer", after("CreateContainer", func(c *exchange, resp proto.Message) {
			run(c, resp.(*runtimeapi.CreateContainerResponse).ContainerId)
		}), nil},
		{"CRIC-EXE-006", "runs the hook twice", "how often it was run", again("ExecSync"), nil},
		{"CRIC-EXE-007", "does not look at the code", "was not stopped", pretend(func(_ *exchange, m *runtimeapi.ExecSyncResponse) { m.ExitCode = 0 }), nil},
		{"CRIC-EXE-008", "runs no hook", "was not run", keep("ExecSync", ok), nil},
		{"CRIC-EXE-008", "does not wait for the hook", "before the preStop hook had ended", fault{ask: func(c *exchange) (proto.Message, error) {
			if c.Method != "ExecSync" {
				return nil, nil
			}
			go func() { _, _ = c.Invoke(context.WithoutCancel(c.ctx), c.Call) }()
			return ok, nil
		}}, nil},
	}
}

func stopMutants() []mutant {
	timeout := func(m proto.Message) int64 { return m.(*runtimeapi.StopContainerRequest).Timeout }
	stopWith := func(seconds int64) fault {
		return edit(func(r *runtimeapi.StopContainerRequest) { r.Timeout = seconds })
	}
	var turn sync.Mutex
	oneByOne := fault{ask: func(c *exchange) (proto.Message, error) {
		if c.Method == "StopContainer" {
			turn.Lock()
		}
		return nil, nil
	}, told: func(c *exchange, resp proto.Message, err error) (proto.Message, error) {
		if c.Method == "StopContainer" {
			turn.Unlock()
		}
		return resp, err
	}}
	stopped := &runtimeapi.StopPodSandboxResponse{}
	early := before("StopContainer", func(c *exchange) {
		_, _ = c.rt.StopPodSandbox(c.ctx, &runtimeapi.StopPodSandboxRequest{PodSandboxId: c.creation(c.pod, c.container).PodSandboxId})
	})
	return []mutant{
		{"CRIC-STP-001", "gives 30 s always", "timeout of StopContainer is 30", stopWith(30), nil},
		{"CRIC-STP-002", "takes the Pod at its word", "timeout of StopContainer is 1", stopWith(1), nil},
		{"CRIC-STP-003", "stops one at a time", "after the other had ended", oneByOne, nil},
		{"CRIC-STP-003", "stops the sandbox first", "before StopContainer", early, nil},
		{"CRIC-STP-004", "only removes", "had not succeeded", keep("StopPodSandbox", stopped), nil},
		{"CRIC-STP-005", "only stops", "RemovePodSandbox was not called", keep("RemovePodSandbox", &runtimeapi.RemovePodSandboxResponse{}), nil},
		{"CRIC-STP-006", "tries once", "StopPodSandbox was not called", giveUp("StopPodSandbox"), nil},
		{"CRIC-STP-007", "tries once", "neither the container nor its sandbox", both(giveUp("StopContainer"), keepFailing("StopPodSandbox")), nil},
		{"CRIC-STP-008", "waits for the grace alone", "the call ends after", punctual("StopContainer", timeout), nil},
		{"CRIC-STP-009", "does not expect that a container goes", "StopPodSandbox was not called", panics("StopContainer", "StopPodSandbox"), nil},
	}
}

// sharesDirectory gives all Pods one log directory, in which each container has its path.
func sharesDirectory(name func(*runtimeapi.CreateContainerRequest)) fault {
	share := func(c *runtimeapi.PodSandboxConfig) { c.LogDirectory = filepath.Dir(c.LogDirectory) }
	return both(run(share), edit(func(r *runtimeapi.CreateContainerRequest) {
		share(r.SandboxConfig)
		r.Config.LogPath = strings.ReplaceAll(r.Config.LogPath, "/", "-")
		name(r)
	}))
}

func logMutants() []mutant {
	return []mutant{
		{"CRIC-LOG-001", "makes no directory", "no such file", create(func(c *runtimeapi.ContainerConfig) { c.LogPath = "nowhere/" + c.LogPath }), nil},
		{"CRIC-LOG-002", "rotates nothing", "was not called", fault{}, without},
		{"CRIC-LOG-003", "has a log for each name of a container", "the log of containers of two Pods", sharesDirectory(func(*runtimeapi.CreateContainerRequest) {}), nil},
		{"CRIC-LOG-004", "has one log directory", "that of two Pods", sharesDirectory(func(r *runtimeapi.CreateContainerRequest) {
			r.Config.LogPath = r.PodSandboxId + "-" + r.Config.LogPath
		}), nil},
	}
}

func crashMutants() []mutant {
	stopAll := func(p *proxy) {
		list, err := p.rt.ListPodSandbox(context.Background(), &runtimeapi.ListPodSandboxRequest{})
		if err != nil {
			return
		}
		for _, item := range list.Items {
			_, _ = p.rt.StopPodSandbox(context.Background(), &runtimeapi.StopPodSandboxRequest{PodSandboxId: item.Id})
		}
	}
	suspicious := fault{told: func(c *exchange, resp proto.Message, err error) (proto.Message, error) {
		if errors.Is(err, kind.Unavailable) {
			c.first("outage")
		}
		if err == nil && c.Method == "ListPodSandbox" && c.noted("outage") && c.first("stopped") {
			stopAll(c.proxy)
		}
		return resp, err
	}}
	var seen []string // what was there when the kubelet died
	var mu sync.Mutex
	forgetful := fault{
		revived: func(p *proxy) {
			mu.Lock()
			defer mu.Unlock()
			p.first("dead")
			containers, _ := p.rt.ListContainers(context.Background(), &runtimeapi.ListContainersRequest{})
			for _, item := range containers.GetContainers() {
				seen = append(seen, item.Id)
				_, _ = p.rt.StartContainer(context.Background(), &runtimeapi.StartContainerRequest{ContainerId: item.Id})
			}
			sandboxes, _ := p.rt.ListPodSandbox(context.Background(), &runtimeapi.ListPodSandboxRequest{})
			for _, item := range sandboxes.GetItems() {
				seen = append(seen, item.Id)
			}
		},
		ask: func(c *exchange) (proto.Message, error) {
			if !c.noted("dead") {
				return nil, nil
			}
			switch r := c.Request.(type) {
			case *runtimeapi.RunPodSandboxRequest:
				r.Config.Metadata.Attempt += 5
			case *runtimeapi.CreateContainerRequest:
				more(r)
			case *runtimeapi.StopPodSandboxRequest, *runtimeapi.StopContainerRequest, *runtimeapi.RemoveContainerRequest, *runtimeapi.RemovePodSandboxRequest:
				return &runtimeapi.StopPodSandboxResponse{}, nil
			}
			return nil, nil
		},
		told: func(_ *exchange, resp proto.Message, err error) (proto.Message, error) {
			mu.Lock()
			defer mu.Unlock()
			switch r := resp.(type) {
			case *runtimeapi.ListPodSandboxResponse:
				r.Items = slices.DeleteFunc(r.Items, func(s *runtimeapi.PodSandbox) bool { return slices.Contains(seen, s.Id) })
			case *runtimeapi.ListContainersResponse:
				r.Containers = slices.DeleteFunc(r.Containers, func(s *runtimeapi.Container) bool { return slices.Contains(seen, s.Id) })
			}
			return resp, err
		},
	}
	recounts := fault{revived: func(p *proxy) { p.first("dead") }, ask: func(c *exchange) (proto.Message, error) {
		if r, ok := c.Request.(*runtimeapi.CreateContainerRequest); ok && c.noted("dead") && r.Config.Metadata.Attempt > 0 {
			more(r)
		}
		return nil, nil
	}}
	return []mutant{
		{"CRIC-CRASH-001", "begins anew with its runtime", "", suspicious, alone},
		{"CRIC-CRASH-002", "makes a sandbox once", "started 1 times", giveUp("RunPodSandbox"), alone},
		{"CRIC-CRASH-003", "starts once", "was started 1 times", giveUp("CreateContainer"), alone},
		{"CRIC-CRASH-004", "begins with a clean runtime", "", fault{revived: stopAll}, alone},
		{"CRIC-CRASH-005", "does not look for what is there", "2 sandboxes that are ready", forgetful, alone},
		{"CRIC-CRASH-006", "does not look for what is there", "2 sandboxes that are ready", forgetful, alone},
		{"CRIC-CRASH-007", "does not look for what is there", "2 sandboxes that are ready", forgetful, alone},
		{"CRIC-CRASH-008", "does not look for what is there", "StopPodSandbox was not called", forgetful, alone},
		{"CRIC-CRASH-009", "counts anew", "the attempt of the second", recounts, alone},
	}
}
