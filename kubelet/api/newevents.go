package api

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"strings"

	eventsv1 "k8s.io/api/events/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
)

// Events are served under two groups: the core group and events.k8s.io, which newer
// recorders use. They are the same objects, with different names for some fields. So a
// request for one group is translated to the other, and its response back.

// newEventsPath is the path prefix of the newer ones.
const newEventsPath = "/apis/events.k8s.io/v1/"

// coreNames maps the fields of an events.k8s.io Event to their names in the core group.
func coreNames() map[string]string {
	return map[string]string{
		"regarding": "involvedObject", "note": "message", "reportingController": "reportingComponent", "deprecatedSource": "source",
		"deprecatedFirstTimestamp": "firstTimestamp", "deprecatedLastTimestamp": "lastTimestamp", "deprecatedCount": "count",
	}
}

func newNames() map[string]string {
	names := map[string]string{}
	for name, core := range coreNames() {
		names[core] = name
	}
	return names
}

// newEvents serves Events in the form of events.k8s.io.
func (s *Server) newEvents(w http.ResponseWriter, r *http.Request) error {
	_, parts := split(r.URL.Path)
	if parts[0] == "namespaces" && len(parts) > 2 {
		parts = parts[2:]
	}
	if parts[0] != "events" {
		return s.refuse(w, r, eventsv1.SchemeGroupVersion.WithResource(parts[0]), "")
	}
	as, err := s.accepted(r)
	if err != nil {
		return err
	}
	inner := r.Clone(r.Context())
	inner.URL.Path = "/api/v1/" + strings.TrimPrefix(r.URL.Path, newEventsPath)
	if r.Method != http.MethodDelete { // whose options belong to no group
		if err := s.renameBody(inner); err != nil {
			return err
		}
	}
	if as.as != "" { // a table, or metadata: these belong to no group, either
		return s.resource(w, inner)
	}
	inner.Header.Set("Accept", mediaJSON)
	renamed := &renamer{ResponseWriter: w, lines: isWatch(r)}
	if err := s.resource(renamed, inner); err != nil {
		return err
	}
	return renamed.finish()
}

// renameBody translates the body of a request for an events.k8s.io Event to a core
// Event.
func (s *Server) renameBody(r *http.Request) error {
	data, media, err := body(r)
	if err != nil || len(data) == 0 {
		return err
	}
	switch types.PatchType(media) {
	case types.ApplyYAMLPatchType:
		return apierrors.NewGenericServerResponse(http.StatusUnsupportedMediaType, r.Method, eventsv1.Resource("events"), "",
			"events of events.k8s.io cannot be applied here: apply those of v1", 0, true)
	case types.JSONPatchType:
		data, err = renamePaths(data)
	case mediaProtobuf:
		event := &eventsv1.Event{}
		if _, _, err = s.codecs.byType[mediaProtobuf].Serializer.Decode(data, nil, event); err == nil {
			r.Header.Set("Content-Type", mediaJSON)
			if data, err = json.Marshal(event); err == nil {
				data, err = rename(data, coreNames(), "v1")
			}
		}
	default:
		data, err = rename(data, coreNames(), "v1")
	}
	if err != nil {
		return apierrors.NewBadRequest("decoding the request: " + err.Error())
	}
	r.Body, r.ContentLength = io.NopCloser(bytes.NewReader(data)), int64(len(data))
	return nil
}

// rename renames the fields of an Event, or of a patch of one, and sets the Event's
// version if it has one.
func rename(data []byte, names map[string]string, version string) ([]byte, error) {
	var have map[string]json.RawMessage
	if err := json.Unmarshal(data, &have); err != nil {
		return nil, err
	}
	out := make(map[string]json.RawMessage, len(have))
	for name, value := range have {
		if other, ok := names[name]; ok {
			name = other
		}
		out[name] = value
	}
	if have["apiVersion"] != nil {
		out["apiVersion"] = fmt.Appendf(nil, "%q", version)
	}
	return json.Marshal(out)
}

// renamePaths is rename for a JSON patch.
func renamePaths(data []byte) ([]byte, error) {
	var operations []map[string]json.RawMessage
	if err := json.Unmarshal(data, &operations); err != nil {
		return nil, err
	}
	for _, o := range operations {
		for _, field := range []string{"path", "from"} {
			var path string
			if o[field] == nil || json.Unmarshal(o[field], &path) != nil {
				continue
			}
			first, rest, _ := strings.Cut(strings.TrimPrefix(path, "/"), "/")
			if core, ok := coreNames()[first]; ok {
				o[field] = fmt.Appendf(nil, "%q", strings.TrimSuffix("/"+core+"/"+rest, "/"))
			}
		}
	}
	return json.Marshal(operations)
}

// renamer translates responses with core Events to events.k8s.io: a whole response or,
// for a watch, each line.
type renamer struct {
	http.ResponseWriter

	lines bool
	held  bytes.Buffer
}

// Unwrap lets http.ResponseController flush what was written.
func (w *renamer) Unwrap() http.ResponseWriter { return w.ResponseWriter }

func (w *renamer) Write(data []byte) (int, error) {
	w.held.Write(data)
	for w.lines {
		end := bytes.IndexByte(w.held.Bytes(), '\n')
		if end < 0 {
			break
		}
		if err := w.line(w.held.Next(end + 1)); err != nil {
			return 0, err
		}
	}
	return len(data), nil
}

func (w *renamer) line(data []byte) error {
	var event struct {
		Type   string          `json:"type"`
		Object json.RawMessage `json:"object"`
	}
	if err := json.Unmarshal(data, &event); err != nil {
		return err
	}
	var err error
	if event.Object, err = toNew(event.Object); err != nil {
		return err
	}
	out, err := json.Marshal(event)
	if err != nil {
		return err
	}
	_, err = w.ResponseWriter.Write(append(out, '\n'))
	return err
}

// finish writes a response that is a single document.
func (w *renamer) finish() error {
	if w.held.Len() == 0 {
		return nil
	}
	out, err := toNew(w.held.Bytes())
	if err != nil {
		return err
	}
	_, err = w.ResponseWriter.Write(append(out, '\n'))
	return err
}

// toNew translates an Event, or a list of them, to events.k8s.io. Anything else is
// returned unchanged.
func toNew(data []byte) ([]byte, error) {
	var head metav1.TypeMeta
	if err := json.Unmarshal(data, &head); err != nil {
		return nil, err
	}
	version := eventsv1.SchemeGroupVersion.String()
	switch head.Kind {
	case "Event":
		return rename(data, newNames(), version)
	case "EventList":
		var list map[string]json.RawMessage
		var items []json.RawMessage
		if err := json.Unmarshal(data, &list); err != nil {
			return nil, err
		}
		if err := json.Unmarshal(list["items"], &items); err != nil {
			return nil, err
		}
		for i := range items {
			var err error
			if items[i], err = rename(items[i], newNames(), version); err != nil {
				return nil, err
			}
		}
		list["apiVersion"] = fmt.Appendf(nil, "%q", version)
		var err error
		if list["items"], err = json.Marshal(items); err != nil {
			return nil, err
		}
		return json.Marshal(list)
	}
	return data, nil
}
