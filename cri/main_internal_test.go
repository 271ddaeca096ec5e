package cri

import "testing"

// TestSettings: flags win over the environment, which wins over what the name gives.
func TestSettings(t *testing.T) {
	env := map[string]string{"CONTAINER_RUNTIME_ENDPOINT": "unix:///e.sock", "STATE_DIRECTORY": "/state"}
	for name, c := range map[string]struct {
		args           []string
		env            map[string]string
		endpoint, root string // "": refused
	}{
		"of the name":        {nil, nil, "unix:///run/mine.sock", "/var/lib/mine"},
		"of the environment": {nil, env, "unix:///e.sock", "/state"},
		"of flags":           {[]string{"--endpoint", "unix:///f.sock", "--root=/flag"}, env, "unix:///f.sock", "/flag"},
		"unknown flag":       {[]string{"--socket", "x"}, env, "", ""},
		"a word too many":    {[]string{"serve"}, env, "", ""},
	} {
		endpoint, root, err := settings("mine", append([]string{"/bin/mine"}, c.args...), func(key string) string { return c.env[key] })
		if (err != nil) != (c.root == "") || err == nil && (endpoint != c.endpoint || root != c.root) {
			t.Errorf("%s: %q, %q, %v", name, endpoint, root, err)
		}
	}
}
