package credential

import (
	"path"
	"strings"
)

// dockerHub is the host name used to compare Docker Hub.
const dockerHub = "docker.io"

// location is what credentials are for, or where an image is: a registry and a prefix
// of its repository names.
type location struct {
	host string // in lower case; in credentials each of its labels may be a pattern of path.Match
	port string
	path string // "", or it begins with a slash
}

// parseLocation reads the key of an entry in docker's configuration:
// [https://]HOST[:PORT][/PATH]. A leading /v1/ or /v2/ of the path is the version of the
// registry protocol and is ignored; without the second slash it is a prefix of a
// repository name, as in the kubelet. A key that is not a location covers no image.
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

// locate returns the location of a host, port and path. Docker Hub has one location
// under all its names.
func locate(authority, beginning string) location {
	host, port := strings.ToLower(authority), ""
	if i := strings.LastIndexByte(host, ':'); i > strings.LastIndexByte(host, ']') {
		host, port = host[:i], host[i+1:]
	}
	if strings.Contains(host, ":") { // an IPv6 address; other brackets belong to a pattern
		host = strings.TrimSuffix(strings.TrimPrefix(host, "["), "]")
	}
	if host == "index.docker.io" && port == "" {
		host = dockerHub
	}
	return location{host: host, port: port, path: beginning}
}

// covers reports whether credentials for l are meant for an image at target. A path
// covers every path that it is a prefix of, not only at a slash, as in the kubelet.
func (l location) covers(target location) bool {
	if l.port != target.port || !strings.HasPrefix(target.path, l.path) {
		return false
	}
	if strings.Contains(target.host, ":") { // an IPv6 address: colons do not separate labels
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

// patterns returns how many labels of the host are patterns.
func (l location) patterns() (n int) {
	for label := range strings.SplitSeq(l.host, ".") {
		if strings.ContainsAny(label, `*?[\`) {
			n++
		}
	}
	return n
}
