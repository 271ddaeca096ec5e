package kubelet

import (
	"context"
	"errors"

	"github.com/go-logr/logr"
	v1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/tools/record"
	"k8s.io/klog/v2"

	"github.com/nodekit-project/nodekit/kubelet/client"
	"github.com/nodekit-project/nodekit/kubelet/object"
	"github.com/nodekit-project/nodekit/kubelet/pod"
)

// recorder returns a function that calls OnEvent for an event of a Pod and writes it to
// the API, until ctx ends. Similar events are counted in one object. The function
// returns at once; if events arrive faster than they can be written, some are dropped.
func (k *Kubelet) recorder(ctx context.Context) func(pod.Event) {
	quiet := klog.NewContext(ctx, logr.FromSlogHandler(k.config.Logger.Handler()))
	broadcaster := record.NewBroadcaster(record.WithContext(quiet))
	broadcaster.StartRecordingToSink(&sink{ctx, k.client})
	recorder := broadcaster.NewRecorder(object.Scheme(), v1.EventSource{Component: "kubelet", Host: k.config.NodeName})
	return func(e pod.Event) {
		if k.config.OnEvent != nil {
			k.config.OnEvent(e)
		}
		of := &v1.ObjectReference{Kind: "Pod", APIVersion: "v1", Namespace: e.Pod.Namespace, Name: e.Pod.Name, UID: types.UID(e.Pod.UID), FieldPath: e.Field}
		recorder.Event(of, e.Type, e.Reason, e.Message)
	}
}

// sink writes events for a broadcaster, which checks the type of an error, not what it
// wraps. It drops an event that the API rejects, creates one again that is gone, and
// takes anything else for an unavailable API: it then waits, with one goroutine for all
// events. Events are dropped when the kubelet ends.
type sink struct {
	ctx    context.Context
	client *client.Client
}

func (s *sink) Create(e *v1.Event) (*v1.Event, error) {
	made := e.DeepCopy()
	return made, s.told(s.client.Create(s.ctx, made))
}

func (s *sink) Update(e *v1.Event) (*v1.Event, error) {
	made := e.DeepCopy()
	return made, s.told(s.client.Update(s.ctx, made))
}

func (s *sink) Patch(e *v1.Event, patch []byte) (*v1.Event, error) {
	made := e.DeepCopy()
	return made, s.told(s.client.Patch(s.ctx, made, types.StrategicMergePatchType, patch))
}

// told returns the API's own error, unwrapped, if err wraps one.
func (s *sink) told(err error) error {
	if s.ctx.Err() != nil {
		return nil
	}
	var answer *apierrors.StatusError
	if errors.As(err, &answer) {
		return answer
	}
	return err
}
