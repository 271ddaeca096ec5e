package api_test

import (
	"encoding/base64"
	"strings"
	"testing"
)

// TestSecretsAreNotTold has requests with Secrets that are wrong in many ways:
// no answer that refuses one, and no log, has its value.
func TestSecretsAreNotTold(t *testing.T) {
	const value = "hunter2hunter2"
	encoded := base64.StdEncoding.EncodeToString([]byte(value))
	s := serve(t, t.TempDir())
	s.make(t, "POST", secrets, `{"metadata":{"name":"s"},"stringData":{"k":"`+value+`"}}`)
	s.make(t, "POST", secrets, `{"metadata":{"name":"fixed"},"immutable":true,"stringData":{"k":"`+value+`"}}`)
	const yaml = "Content-Type: application/yaml"
	for name, c := range map[string]struct{ method, path, body, header string }{
		"no base64":            {"POST", "", `{"metadata":{"name":"n"},"data":{"k":"` + value + `!"}}`, ""},
		"a list":               {"POST", "", `{"metadata":{"name":"n"},"stringData":["` + value + `"]}`, ""},
		"an object":            {"POST", "", `{"metadata":{"name":"n"},"stringData":{"k":{"` + value + `":1}}}`, ""},
		"text":                 {"POST", "", `"` + value + `"`, ""},
		"cut off":              {"POST", "", `{"stringData":{"k":"` + value, ""},
		"bare":                 {"POST", "", `{"stringData":{"k":` + value + `}}`, ""},
		"a bad name":           {"POST", "", `{"metadata":{"name":"A B"},"stringData":{"k":"` + value + `"}}`, ""},
		"a bad key":            {"POST", "", `{"metadata":{"name":"n"},"stringData":{"a/b":"` + value + `"}}`, ""},
		"unknown":              {"POST", "?fieldValidation=Strict", `{"metadata":{"name":"n"},"wonder":"` + value + `"}`, ""},
		"a number in YAML":     {"POST", "", "metadata: {name: n}\nstringData:\n  k: !!int " + value + "\n", yaml},
		"an anchor in YAML":    {"POST", "", "metadata: {name: n}\nstringData:\n  k: *" + value + "\n", yaml},
		"a float in YAML":      {"POST", "", "metadata: {name: n}\nstringData:\n  k: !!float " + value + "\n", yaml},
		"text as YAML":         {"POST", "", value + "\n", yaml},
		"protobuf":             {"POST", "", "k8s\x00" + value, ofProtobuf},
		"another kind":         {"POST", "", `{"kind":"ConfigMap","apiVersion":"v1","metadata":{"name":"n"},"data":{"k":"` + value + `"}}`, ""},
		"immutable":            {"PUT", "/fixed", `{"metadata":{"name":"fixed"},"stringData":{"k":"` + value + `2"}}`, ""},
		"type":                 {"PUT", "/s", `{"metadata":{"name":"s"},"type":"x","stringData":{"k":"` + value + `2"}}`, ""},
		"stale":                {"PUT", "/s", `{"metadata":{"name":"s","resourceVersion":"1"},"stringData":{"k":"` + value + `2"}}`, ""},
		"test of JSON patch":   {"PATCH", "/s", `[{"op":"test","path":"/data/k","value":"` + value + `"}]`, jsonPatch},
		"JSON patch":           {"PATCH", "/s", `[{"op":"add","path":"/data/a/b","value":"` + value + `"}]`, jsonPatch},
		"JSON patch of type":   {"PATCH", "/s", `[{"op":"add","path":"/data","value":"` + value + `"}]`, jsonPatch},
		"garbage patch":        {"PATCH", "/s", `[{"op":"add","value":` + value + `}]`, jsonPatch},
		"merge patch":          {"PATCH", "/s", `{"data":"` + value + `"}`, mergePatch},
		"merge patch, garbage": {"PATCH", "/s", `{"data":` + value + `}`, mergePatch},
		"strategic directive":  {"PATCH", "/s", `{"data":{"$patch":"wonder","k":"` + value + `"}}`, strategicPatch},
		"strategic list":       {"PATCH", "/s", `{"data":["` + value + `"]}`, strategicPatch},
		"apply":                {"PATCH", "/s?fieldManager=m", `{"apiVersion":"v1","kind":"Secret","metadata":{"name":"s"},"data":{"k":"` + base64.StdEncoding.EncodeToString([]byte("x"+value)) + `"}}`, applyPatch},
		"apply a list":         {"PATCH", "/s?fieldManager=m", `{"apiVersion":"v1","kind":"Secret","metadata":{"name":"s"},"data":["` + value + `"]}`, applyPatch},
		"apply unknown":        {"PATCH", "/s?fieldManager=m", `{"apiVersion":"v1","kind":"Secret","metadata":{"name":"s"},"wonder":{"k":"` + value + `"}}`, applyPatch},
		"apply YAML":           {"PATCH", "/s?fieldManager=m", "apiVersion: v1\nkind: Secret\nstringData:\n  k: !!int " + value + "\n", applyPatch},
	} {
		t.Run(name, func(t *testing.T) {
			var headers []string
			if c.header != "" {
				headers = []string{c.header}
			}
			a := s.do(t, c.method, secrets+c.path, c.body, headers...)
			if a.code < 400 || a.code >= 500 {
				t.Errorf("got %d %s", a.code, a.body)
			}
			for _, told := range []string{a.body, strings.Join(a.header.Values("Warning"), " "), s.log.String()} {
				if strings.Contains(told, value) || strings.Contains(told, encoded) {
					t.Errorf("told: %s", told)
				}
			}
		})
	}
}
