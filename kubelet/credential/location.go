package credential

import (
	"path"
	"strings"
)

// dockerHub is the host by which Docker Hub is compared.
const dockerHub = "docker.io"

// location is what credentials are for, or where an image is: a registry and the
// beginning of the names of its repositories.
type location struct {
	host string // in lower case; in credentials each of its labels may be a pattern of path.Match
	port string
	path string // "", or it begins with a slash
}

// parseLocation reads the key of an entry in docker's configuration:
// [https://]HOST[:PORT][/PATH], of which a leading /v1/ or /v2/ of the path is the
// version of the registry's protocol and says nothing; without the second slash it is
// the beginning of a repository's name, as for the kubelet. What is no location covers no
// image.
func parseLocation(key string) location {
	key = strings.TrimPrefix(strings.TrimPrefix(key, "https://"), "http://")
	host, rest, _ := strings.Cut(key, "/")
	rest = "/" + rest
	for _, version := range []string{"/v1", "/v2"} {
		if after, ok := strings.CutPrefix(rest, version+"/"); ok {
			rest = "/" + after
			break
		}
	}
	if rest == "/" {
		rest = ""
	}
	return locate(host[strings.LastIndexByte(host, '@')+1:], rest)
}

// locate returns the location of a host and port, and a path. Docker Hub has one
// location by all its names.
func locate(authority, beginning string) location {
	host, port := strings.ToLower(authority), ""
	if i := strings.LastIndexByte(host, ':'); i > strings.LastIndexByte(host, ']') {
		host, port = host[:i], host[i+1:]
	}
	if strings.Contains(host, ":") { // an IPv6 address; other brackets are of a pattern
		host = strings.TrimSuffix(strings.TrimPrefix(host, "["), "]")
	}
	if host == "index.docker.io" && port == "" {
		host = dockerHub
	}
	return location{host: host, port: port, path: beginning}
}

// covers reports whether credentials for l are meant for an image at target. A path
// covers all that begin with it, not only at a slash, as the kubelet has it.
func (l location) covers(target location) bool {
	if l.port != target.port || !strings.HasPrefix(target.path, l.path) {
		return false
	}
	if strings.Contains(target.host, ":") { // an IPv6 address, whose colons are no labels
		return l.host == target.host
	}
	want, have := strings.Split(l.host, "."), strings.Split(target.host, ".")
	if len(want) != len(have) {
		return false
	}
	for i := range want {
		if ok, err := path.Match(want[i], have[i]); err != nil || !ok {
			return false
		}
	}
	return true
}

// patterns is how many labels of the host are patterns.
func (l location) patterns() (n int) {
	for label := range strings.SplitSeq(l.host, ".") {
		if strings.ContainsAny(label, `*?[\`) {
			n++
		}
	}
	return n
}
