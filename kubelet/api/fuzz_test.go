package api_test

import (
	"context"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"testing"
	"time"
)

// request is what the fuzzer makes up.
type request struct{ method, path, query, media, accept, body string }

// seeds are requests of every sort, from which others are made.
func seeds() []request {
	const protobuf, json = "application/vnd.kubernetes.protobuf", "application/json"
	secret := `{"apiVersion":"v1","kind":"Secret","metadata":{"name":"s"},"stringData":{"k":"v"}}`
	return []request{
		{"GET", "/api", "", "", "", ""},
		{"GET", "/apis/apps/v1/deployments", "", "", asTable[8:], ""},
		{"GET", pods, "labelSelector=a%3Db&fieldSelector=status.phase%3DRunning&limit=1&resourceVersion=1", "", protobuf, ""},
		{"GET", pods, "watch=1&timeoutSeconds=1&sendInitialEvents=true&resourceVersion=2", "", asTable[8:], ""},
		{"GET", pods + "/web", "includeObject=Object", "", asTable[8:], ""},
		{"GET", pods + "/web/log", "container=c", "", "", ""},
		{"GET", "/api/v1/nodes/node/proxy/stats", "", "", "", ""},
		{"GET", "/apis/metrics.k8s.io/v1beta1/", "", "", "", ""},
		{"GET", "/openapi/v3/api/v1", "", "", "", ""},
		{"POST", pods, "dryRun=All&fieldValidation=Strict&fieldManager=m", json, "", podDoc},
		{"POST", secrets, "", "application/yaml", "application/yaml", "metadata: {name: y}\nstringData:\n  k: !!int x\n"},
		{"POST", configMaps, "", protobuf, protobuf, "k8s\x00\n\x0f\n\x02v1\x12\tConfigMap\x12\x08\n\x06\n\x04prot"},
		{"POST", pods + "/web/eviction", "", json, "", `{"deleteOptions":{"gracePeriodSeconds":5}}`},
		{"PUT", pods + "/web", "", json, "", podDoc},
		{"PUT", pods + "/web/status", "", json, "", with(podDoc, `{"status":{"phase":"Running"}}`)},
		{"PUT", pods + "/web/resize", "", json, "", podDoc},
		{"PUT", pods + "/web/ephemeralcontainers", "", json, "", with(podDoc, `{"spec":{"ephemeralContainers":[{"name":"d","image":"x"}]}}`)},
		{"PUT", namespaces + "/default/finalize", "", json, "", `{"metadata":{"name":"default"}}`},
		{"PATCH", pods + "/web", "", jsonPatch[14:], "", `[{"op":"add","path":"/metadata/labels","value":{"a":"b"}},{"op":"move","from":"/spec/containers/0","path":"/spec/containers/-"}]`},
		{"PATCH", pods + "/web", "", mergePatch[14:], "", `{"metadata":{"labels":{"a":null}}}`},
		{"PATCH", pods + "/web", "", strategicPatch[14:], "", `{"spec":{"$setElementOrder/containers":[{"name":"c"}],"containers":[{"name":"c","$patch":"replace"}]}}`},
		{"PATCH", secrets + "/s", "fieldManager=m&force=true", applyPatch[14:], "", secret},
		{"PATCH", pods + "/web/status", "fieldManager=m", applyPatch[14:], "", with(podDoc, `{"spec":null,"status":{"conditions":[{"type":"a","status":"True"}]}}`)},
		{"DELETE", configMaps + "/cm", "propagationPolicy=Foreground&gracePeriodSeconds=0", json, "", `{"preconditions":{"uid":"x"}}`},
		{"DELETE", configMaps, "labelSelector=a", "", "", ""},
	}
}

// try serves a request and holds the answer to what any request may expect.
func try(t *testing.T, h http.Handler, in request) {
	t.Helper()
	if len(in.body) > 1<<16 || !strings.HasPrefix(in.path, "/") || strings.Contains(in.path, "exec") || strings.Contains(in.path, "attach") {
		return
	}
	ctx, cancel := context.WithTimeout(t.Context(), 200*time.Millisecond) // ends watches
	defer cancel()
	r := (&http.Request{
		Method: in.method, URL: &url.URL{Path: in.path, RawQuery: in.query}, Header: http.Header{"Content-Type": {in.media}}, Host: "node",
		Body: http.NoBody, Proto: "HTTP/1.1", ProtoMajor: 1, ProtoMinor: 1,
	}).WithContext(ctx)
	if in.body != "" {
		r.Body = readCloser{strings.NewReader(in.body)}
	}
	if in.accept != "" {
		r.Header.Set("Accept", in.accept)
	}
	w := httptest.NewRecorder()
	h.ServeHTTP(w, r)
	if w.Code == http.StatusInternalServerError {
		t.Errorf("%q\ngot %d %s", in, w.Code, w.Body)
	}
}

// readCloser is a body.
type readCloser struct{ *strings.Reader }

func (readCloser) Close() error { return nil }

// populate stores what the seeds are about.
func populate(t testing.TB, s *testServer) {
	t.Helper()
	for path, doc := range map[string]string{
		pods: podDoc, configMaps: cmDoc, secrets: `{"metadata":{"name":"s"},"stringData":{"k":"v"}}`, "/api/v1/nodes": `{"metadata":{"name":"node"}}`,
	} {
		s.do(t, "POST", path, doc)
	}
}

func FuzzRequest(f *testing.F) {
	for _, s := range seeds() {
		f.Add(s.method, s.path, s.query, s.media, s.accept, s.body)
	}
	s := serve(f, f.TempDir())
	populate(f, s)
	f.Fuzz(func(t *testing.T, method, path, query, media, accept, body string) {
		try(t, s.handler, request{method, path, query, media, accept, body})
	})
}

// TestRequestsAtRandom mutates the seeds, the same way each time.
func TestRequestsAtRandom(t *testing.T) {
	s := serve(t, t.TempDir())
	random := rand.New(rand.NewPCG(3, 4)) //nolint:gosec // repeatable on purpose
	all := seeds()
	for i := range 3000 {
		if i%100 == 0 {
			populate(t, s)
		}
		in := all[random.IntN(len(all))]
		other := all[random.IntN(len(all))]
		for range 1 + random.IntN(3) {
			switch random.IntN(8) {
			case 0:
				in.method = other.method
			case 1:
				in.path = mutate(random, in.path, other.path)
			case 2:
				in.query = mutate(random, in.query, other.query)
			case 3:
				in.media = other.media
			case 4:
				in.accept = other.accept
			default:
				in.body = mutate(random, in.body, other.body)
			}
		}
		if strings.Contains(in.query, "watch") && random.IntN(20) > 0 {
			continue // each takes its time
		}
		try(t, s.handler, in)
	}
}

// mutate changes a text at random, or takes a part of another.
func mutate(random *rand.Rand, text, other string) string {
	cut := func(s string) (int, int) {
		a := random.IntN(len(s) + 1)
		return a, a + random.IntN(len(s)-a+1)
	}
	a, b := cut(text)
	c, d := cut(other)
	tokens := []string{"null", `""`, "{}", "[]", "-1", `"x"`, "9999999999999999999", "/", "..", "\x00", `{"$patch":"delete"}`, `"$retainKeys"`}
	switch random.IntN(4) {
	case 0:
		return text[:a] + text[b:]
	case 1:
		return text[:a] + other[c:d] + text[b:]
	case 2:
		return text[:a] + tokens[random.IntN(len(tokens))] + text[b:]
	}
	return other
}
