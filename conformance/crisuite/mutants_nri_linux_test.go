package crisuite_test

import (
	"context"
	"slices"
	"strings"
	"sync"
	"sync/atomic"

	"github.com/containerd/nri/pkg/api"
	"google.golang.org/protobuf/proto"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// onPlugin has a fault where a method is called between the runtime and a plugin.
func onPlugin(method string, f func(c *plugged) (any, error)) fault {
	return fault{plugged: func(c *plugged) (any, error) {
		if c.method != method {
			return c.next(nil)
		}
		return f(c)
	}}
}

// deafTo does not pass a method on.
func deafTo(method string) fault {
	return onPlugin(method, func(*plugged) (any, error) { return nothing() })
}

// repeats passes a method on twice.
func repeats(method string) fault {
	return onPlugin(method, func(c *plugged) (any, error) {
		if answer, err := c.next(nil); err != nil {
			return answer, err
		}
		return c.next(nil)
	})
}

// forgives takes a plugin's error for none.
func forgives(method string) fault {
	return onPlugin(method, func(c *plugged) (any, error) {
		if answer, err := c.next(nil); err == nil {
			return answer, nil
		}
		return nothing()
	})
}

// tells edits what a plugin, or the runtime, is asked.
func tells[M any](method string, change func(M)) fault {
	return onPlugin(method, func(c *plugged) (any, error) {
		return c.next(func(req any) { change(req.(M)) })
	})
}

// heeds edits what a plugin, or the runtime, answers.
func heeds[M any](method string, change func(M)) fault {
	return onPlugin(method, func(c *plugged) (any, error) {
		answer, err := c.next(nil)
		if m, ok := answer.(M); ok && err == nil {
			change(m)
		}
		return answer, err
	})
}

// endsBehind tells the end of a container behind another event of its Pod.
func endsBehind(event string) fault {
	var mu sync.Mutex
	late := map[string]*api.StopContainerRequest{} // by Pod
	hold := func(c *plugged) (any, error) {
		req := &api.StopContainerRequest{}
		if err := c.read(req); err != nil {
			return nil, err
		}
		mu.Lock()
		defer mu.Unlock()
		late[req.Pod.Id] = req
		return nothing()
	}
	return fault{plugged: func(c *plugged) (any, error) {
		if c.method == "StopContainer" {
			return hold(c)
		}
		id := ""
		answer, err := c.next(func(req any) {
			if of, ok := req.(interface{ GetPod() *api.PodSandbox }); ok {
				id = of.GetPod().GetId()
			}
		})
		mu.Lock()
		req := late[id]
		mu.Unlock()
		if c.method == event && req != nil {
			_, _ = c.plugin.StopContainer(c.ctx, req)
		}
		return answer, err
	}}
}

// adjustment edits what a plugin wants of a new container.
func adjustment(change func(*api.ContainerAdjustment)) fault {
	return heeds("CreateContainer", func(r *api.CreateContainerResponse) {
		if r.Adjust != nil {
			change(r.Adjust)
		}
	})
}

func nriMutants() []mutant {
	type sync = api.SynchronizeRequest
	return slices.Concat([]mutant{
		{"CRI-NRI-001", "has plugins that cannot connect", seen("nobody listens", fault{deaf: true})},
		{"CRI-NRI-001", "tells of no containers", seen("is not told of container", tells("Synchronize", func(r *sync) { r.Containers = nil }))},
		{"CRI-NRI-001", "tells of no Pods", seen("is not told of Pod", tells("Synchronize", func(r *sync) { r.Pods = nil }))},
		{"CRI-NRI-001", "tells of what is gone", seen("that is removed", remembers())},
		{"CRI-NRI-002", "does not tell that Pods stop", seen("want [", deafTo("StopPodSandbox"))},
		{"CRI-NRI-002", "tells of a Pod twice", seen("want [", repeats("RunPodSandbox"))},
		{"CRI-NRI-003", "does not tell that containers run", seen("want [", deafTo("PostStartContainer"))},
		{"CRI-NRI-003", "tells of a container twice", seen("want [", repeats("RemoveContainer"))},
		{"CRI-NRI-003", "tells an end late", seen("want [", endsBehind("RemoveContainer"))},
		{"CRI-NRI-004", "tells no ends", seen("the program has ended", deafTo("StopContainer"))},
		{"CRI-NRI-004", "tells an end twice", seen("want StopContainer once", repeats("StopContainer"))},
		{"CRI-NRI-005", "ends the Pod first", seen("StopPodSandbox of the Pod before", endsBehind("StopPodSandbox"))},
		{"CRI-NRI-006", "tells of no labels", seen("told of the container", tells("CreateContainer", func(r *api.CreateContainerRequest) { r.Container.Labels = nil }))},
		{"CRI-NRI-006", "tells of no namespace", seen("told of the Pod", tells("RunPodSandbox", func(r *api.RunPodSandboxRequest) { r.Pod.Namespace = "" }))},
	}, nriAdjustMutants(), nriUpdateMutants(), nriManyMutants())
}

// remembers tells of containers that are removed.
func remembers() fault {
	var mu sync.Mutex
	var gone []string
	return fault{
		request: func(c *exchange, _ proto.Message) (proto.Message, error) {
			if r, ok := c.req.(*runtimeapi.RemoveContainerRequest); ok {
				mu.Lock()
				defer mu.Unlock()
				gone = append(gone, r.ContainerId)
			}
			return nil, nil
		},
		plugged: tells("Synchronize", func(r *api.SynchronizeRequest) {
			mu.Lock()
			defer mu.Unlock()
			for _, id := range gone {
				r.Containers = append(r.Containers, &api.Container{Id: id})
			}
		}).plugged,
	}
}

func nriAdjustMutants() []mutant {
	type a = api.ContainerAdjustment
	const note = "conformance.nodekit.dev/of"
	return []mutant{
		{"CRI-NRI-007", "adds no variables", seen("SUITE_NRI", adjustment(func(a *a) { a.Env = slices.DeleteFunc(a.Env, added) }))},
		{"CRI-NRI-007", "adds no mounts", seen("no such file", adjustment(func(a *a) { a.Mounts = nil }))},
		{"CRI-NRI-007", "replaces no variables", seen(`"added\nold\n`, adjustment(func(a *a) { a.Env = slices.DeleteFunc(a.Env, replaced) }))},
		{"CRI-NRI-008", "sets no limits", seen("bytes of memory", adjustment(func(a *a) { a.Linux.Resources.Memory = nil }))},
		{"CRI-NRI-008", "sets no quotas", seen("the quota", adjustment(func(a *a) { a.Linux.Resources.Cpu = nil }))},
		{"CRI-NRI-009", "adds no devices", seen("no such file", adjustment(func(a *a) { a.Linux.Devices = nil }))},
		{"CRI-NRI-010", "sets no arguments", seen("its own arguments", adjustment(func(a *a) { a.Args = nil }))},
		{"CRI-NRI-010", "sets no rlimits", seen("core file of", adjustment(func(a *a) { a.Rlimits = nil }))},
		{"CRI-NRI-011", "tells of no annotations", seen("of the annotations", tells("PostCreateContainer", func(r *api.PostCreateContainerRequest) { delete(r.Container.Annotations, note) }))},
		{"CRI-NRI-011", "tells of no variables", seen("of the environment", tells("PostCreateContainer", func(r *api.PostCreateContainerRequest) { r.Container.Env = nil }))},
		{"CRI-NRI-012", "shows a plugin's annotations", tellStatus(func(s *runtimeapi.ContainerStatus) {
			if s.Annotations[note] != "" {
				s.Annotations[note] = "the plugin"
			}
		})},
		{"CRI-NRI-013", "makes what a plugin refuses", seen("which the plugin refuses, made", forgives("CreateContainer"))},
		{"CRI-NRI-013", "lists what it could not make", seen("there are [", tell(func(r *runtimeapi.ListContainersResponse) {
			r.Containers = append(r.Containers, &runtimeapi.Container{Id: "ghost"})
		}))},
		{"CRI-NRI-014", "runs what a plugin refuses", seen("which the plugin refuses, made", forgives("RunPodSandbox"))},
		{"CRI-NRI-014", "lists a Pod that it could not run", seen("there are [", listsRefused())},
		{"CRI-NRI-015", "starts what a plugin refuses", seen("which the plugin refuses, succeeded", forgives("StartContainer"))},
	}
}

func added(v *api.KeyValue) bool { return v.Key == "SUITE_NRI" }

func replaced(v *api.KeyValue) bool { return v.Key == "SUITE_OLD" }

// listsRefused lists the last Pod that was asked for.
func listsRefused() fault {
	return fault{answer: func(c *exchange, resp proto.Message, err error) (proto.Message, error) {
		if r, ok := c.req.(*runtimeapi.RunPodSandboxRequest); ok && err != nil {
			c.note("refused", r.Config.Metadata)
		}
		if r, ok := resp.(*runtimeapi.ListPodSandboxResponse); ok && err == nil {
			if meta, ok := c.note("refused", nil).(*runtimeapi.PodSandboxMetadata); ok {
				r.Items = append(r.Items, &runtimeapi.PodSandbox{Id: "ghost", Metadata: meta})
			}
		}
		return resp, err
	}}
}

func nriUpdateMutants() []mutant {
	return []mutant{
		{"CRI-NRI-016", "updates nothing", seen("bytes of memory", deafTo("UpdateContainers"))},
		{"CRI-NRI-016", "hides what it could not update", seen("never was says", hidesFailures())},
		{"CRI-NRI-017", "updates nothing at a creation", seen("behind another's creation", heeds("CreateContainer", func(r *api.CreateContainerResponse) { r.Update = nil }))},
		{"CRI-NRI-017", "updates nothing at an end", seen("behind another's end", heeds("StopContainer", func(r *api.StopContainerResponse) { r.Update = nil }))},
		{"CRI-NRI-018", "updates nothing for who connects", seen("bytes of memory", heeds("Synchronize", func(r *api.SynchronizeResponse) { r.Update = nil }))},
		{"CRI-NRI-019", "does not ask about updates", seen("has not been told UpdateContainer", deafTo("UpdateContainer"))},
		{"CRI-NRI-019", "does not listen about updates", seen("bytes of memory", heeds("UpdateContainer", func(r *api.UpdateContainerResponse) { r.Update = nil }))},
		{"CRI-NRI-019", "updates no others", seen("bytes of memory", heeds("UpdateContainer", func(r *api.UpdateContainerResponse) { r.Update = r.Update[:min(1, len(r.Update))] }))},
		{"CRI-NRI-019", "does not tell that it has updated", seen("has not been told PostUpdateContainer", deafTo("PostUpdateContainer"))},
	}
}

func hidesFailures() fault {
	return onPlugin("UpdateContainers", func(c *plugged) (any, error) {
		if _, err := c.next(nil); err != nil {
			return nil, err
		}
		return nothing()
	})
}

func nriManyMutants() []mutant {
	return []mutant{
		{"CRI-NRI-020", "asks as plugins come", seen("before that with index 10", tells("RegisterPlugin", func(r *api.RegisterPluginRequest) { r.PluginIdx = "50" }))},
		{"CRI-NRI-021", "takes what comes first", seen("set one variable differently", adjustment(func(a *api.ContainerAdjustment) {
			a.Env = slices.DeleteFunc(a.Env, func(v *api.KeyValue) bool { return added(v) && v.Value == "two" })
		}))},
		{"CRI-NRI-022", "does not wait for a plugin that connects", seen("was made while the plugin connected", forgets())},
		{"CRI-NRI-024", "lists what it is making", seen("ListContainers shows", listsEarly())},
		{"CRI-NRI-025", "tells an end behind the removal", seen("ended at once", endsBehind("RemoveContainer"))},
		{"CRI-NRI-024", "has a Pod ready before it is", seen("ListPodSandbox shows", readyEarly())},
	}
}

// forgets has a plugin connected that has not answered to Synchronize, and does not
// tell it of what happens meanwhile.
func forgets() fault {
	return fault{plugged: func(c *plugged) (any, error) {
		switch {
		case c.method == "Synchronize":
			req := &api.SynchronizeRequest{}
			if err := c.read(req); err != nil {
				return nil, err
			}
			c.count("connecting", 1)
			go func() {
				defer c.count("connecting", -1)
				_, _ = c.plugin.Synchronize(context.WithoutCancel(c.ctx), req)
			}()
			return nothing()
		case c.count("connecting", 0) > 0 && strings.HasSuffix(c.method, "Container"):
			return nothing()
		}
		return c.next(nil)
	}}
}

// forgetsForPlugins tells a plugin of no container from before a kill.
func forgetsForPlugins() fault {
	return onPlugin("Synchronize", func(c *plugged) (any, error) {
		return c.next(func(req any) {
			if c.again {
				req.(*api.SynchronizeRequest).Containers = nil
			}
		})
	})
}

// listsEarly lists a container while plugins are asked about it. Plugins are asked one
// thing at a time.
func listsEarly() fault {
	var making atomic.Value
	making.Store("")
	return fault{
		plugged: tells("CreateContainer", func(r *api.CreateContainerRequest) { making.Store(r.Container.Id) }).plugged,
		answer: tell(func(r *runtimeapi.ListContainersResponse) {
			r.Containers = append(r.Containers, &runtimeapi.Container{Id: making.Load().(string)})
		}).answer,
	}
}

// readyEarly lists a Pod as ready while plugins are asked about it.
func readyEarly() fault {
	var making atomic.Pointer[api.PodSandbox]
	return fault{
		plugged: tells("RunPodSandbox", func(r *api.RunPodSandboxRequest) { making.Store(r.Pod) }).plugged,
		answer: tell(func(r *runtimeapi.ListPodSandboxResponse) {
			pod := making.Load()
			meta := &runtimeapi.PodSandboxMetadata{Uid: pod.GetUid(), Name: pod.GetName()}
			r.Items = append(r.Items, &runtimeapi.PodSandbox{Id: pod.GetId(), Metadata: meta, State: runtimeapi.PodSandboxState_SANDBOX_READY})
		}).answer,
	}
}
