package hosts

import (
	"bytes"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/pelletier/go-toml/v2"
	"github.com/pelletier/go-toml/v2/unstable"

	"github.com/nodekit-project/nodekit/internal/fault"
)

// file is hosts.toml. Its top-level keys are about the server.
type file struct {
	table
	Server string           `toml:"server"`
	Host   map[string]table `toml:"host"`
}

// table is the part of the file about one host.
type table struct {
	Capabilities []string       `toml:"capabilities"`
	CA           any            `toml:"ca"`     // a file, or several
	Client       any            `toml:"client"` // a file, several, or pairs of them
	SkipVerify   bool           `toml:"skip_verify"`
	Header       map[string]any `toml:"header"` // a string, or several
	OverridePath bool           `toml:"override_path"`
	DialTimeout  string         `toml:"dial_timeout"`
}

// parser knows the positions of keys in the file.
type parser struct {
	path  string
	lines map[string]int // by key, its parts joined by NUL
	order []string       // the hosts
}

// parse parses a hosts.toml. path is its location.
func parse(path string, raw []byte) (all []Host, notices []string, err error) {
	p := &parser{path: path, lines: map[string]int{}}
	var f file
	dec := toml.NewDecoder(bytes.NewReader(raw)).DisallowUnknownFields()
	var unknown *toml.StrictMissingError
	if err := dec.Decode(&f); errors.As(err, &unknown) {
		notices = p.notices(unknown)
	} else if err != nil {
		return nil, nil, p.damaged(err)
	}
	p.scan(raw)
	for _, server := range p.order {
		h, err := p.host(server, f.Host[server], "host", server)
		if err != nil {
			return nil, nil, err
		}
		all = append(all, h)
	}
	h, err := p.host(f.Server, f.table)
	if err != nil {
		return nil, nil, err
	}
	return append(all, h), notices, nil
}

func (p *parser) damaged(err error) error {
	var at *toml.DecodeError
	if errors.As(err, &at) {
		line, _ := at.Position()
		return fault.FailedPrecondition.Errorf("%s:%d: %w", p.path, line, err)
	}
	return fault.FailedPrecondition.Errorf("%s: %w", p.path, err)
}

// notices reports keys that this program does not know. They may belong to a newer
// version, and do not prevent images from being pulled.
func (p *parser) notices(unknown *toml.StrictMissingError) (all []string) {
	for i := range unknown.Errors {
		e := &unknown.Errors[i]
		line, _ := e.Position()
		all = append(all, fmt.Sprintf("%s:%d: unknown key %q is ignored", p.path, line, strings.Join(e.Key(), ".")))
	}
	return all
}

// scan records the lines of keys, and the order of the hosts, which a map loses. The file
// must be valid.
func (p *parser) scan(raw []byte) {
	var in unstable.Parser
	in.Reset(raw)
	var table []string
	for in.NextExpression() {
		e := in.Expression()
		key, line := keyOf(&in, e)
		switch e.Kind {
		case unstable.Table, unstable.ArrayTable:
			table = key
		case unstable.KeyValue:
			key = slices.Concat(table, key)
		default:
			continue
		}
		if _, seen := p.lines[join(key)]; !seen {
			p.lines[join(key)] = line
		}
		p.note(key, e)
	}
}

// note adds the hosts that an expression names to the order.
func (p *parser) note(key []string, e *unstable.Node) {
	if key[0] != "host" {
		return
	}
	names := key[1:min(2, len(key))]
	if len(key) == 1 && e.Kind == unstable.KeyValue { // host = { "https://..." = {...} }
		for it := e.Value().Children(); it.Next(); {
			inner := it.Node().Key()
			inner.Next()
			names = append(names, string(inner.Node().Data))
		}
	}
	for _, n := range names {
		if !slices.Contains(p.order, n) {
			p.order = append(p.order, n)
		}
	}
}

func keyOf(in *unstable.Parser, e *unstable.Node) (key []string, line int) {
	if e.Kind != unstable.KeyValue && e.Kind != unstable.Table && e.Kind != unstable.ArrayTable {
		return nil, 0
	}
	for it := e.Key(); it.Next(); {
		if len(key) == 0 {
			line = in.Shape(it.Node().Raw).Start.Line
		}
		key = append(key, string(it.Node().Data))
	}
	return key, line
}

func join(key []string) string { return strings.Join(key, "\x00") }

// host makes a Host from the part of the file about server below the key under.
func (p *parser) host(server string, t table, under ...string) (Host, error) {
	h := Host{OverridePath: t.OverridePath, SkipVerify: t.SkipVerify}
	fail := func(key string, err error) (Host, error) { return h, p.wrong(append(slices.Clone(under), key), err) }
	var err error
	if h.URL, err = baseURL(server, t.OverridePath); err != nil {
		if len(under) == 0 {
			under = []string{"server"}
		}
		return h, p.wrong(under, err)
	}
	if h.Resolve, h.Pull, err = capabilities(t.Capabilities); err != nil {
		return fail("capabilities", err)
	}
	if h.CA, err = p.files(t.CA); err != nil {
		return fail("ca", err)
	}
	if h.Client, err = p.keyPairs(t.Client); err != nil {
		return fail("client", err)
	}
	if h.Header, err = header(t.Header); err != nil {
		return fail("header", err)
	}
	if t.DialTimeout == "" {
		return h, nil
	}
	if h.DialTimeout, err = time.ParseDuration(t.DialTimeout); err != nil || h.DialTimeout <= 0 {
		return fail("dial_timeout", fmt.Errorf("%q is no time like \"10s\"", t.DialTimeout))
	}
	return h, nil
}

// wrong returns an error about the value of a key, with its position.
func (p *parser) wrong(key []string, err error) error {
	at := p.path
	for k := key; len(k) > 0; k = k[:len(k)-1] {
		if line := p.lines[join(k)]; line > 0 {
			at = fmt.Sprintf("%s:%d", p.path, line)
			break
		}
	}
	return fault.FailedPrecondition.Errorf("%s: %s: %w", at, strings.Join(key, "."), err)
}

// baseURL returns the root of a server's API, nil if there is no server.
func baseURL(server string, override bool) (*url.URL, error) {
	if server == "" {
		return nil, nil
	}
	if !strings.Contains(server, "://") {
		server = "https://" + server
	}
	u, err := url.Parse(server)
	if err != nil || u.Host == "" || (u.Scheme != "https" && u.Scheme != "http") {
		return nil, errors.New("want http://HOST[:PORT][/PATH] or the same with https")
	}
	if u.User != nil || u.RawQuery != "" || u.Fragment != "" {
		return nil, errors.New("a user, a query or a fragment has no place in it")
	}
	root := strings.TrimSuffix(path.Clean("/"+u.Path), "/")
	if !override && !strings.HasSuffix(root, "/v2") {
		root += "/v2"
	}
	return &url.URL{Scheme: u.Scheme, Host: u.Host, Path: root}, nil
}

func capabilities(names []string) (resolve, pull bool, err error) {
	if len(names) == 0 {
		return true, true, nil
	}
	for _, n := range names {
		switch strings.ToLower(n) {
		case "resolve":
			resolve = true
		case "pull":
			pull = true
		case "push", "referrers": // not needed by an image store
		default:
			return false, false, fmt.Errorf("%q: want pull, resolve, push or referrers", n)
		}
	}
	return resolve, pull, nil
}

// files returns the paths that value names, one or several. Relative ones are relative to
// the file's directory.
func (p *parser) files(value any) ([]string, error) {
	list, err := texts(value)
	for i := range list {
		if list[i] != "" && !filepath.IsAbs(list[i]) {
			list[i] = filepath.Join(filepath.Dir(p.path), list[i])
		}
	}
	return list, err
}

func (p *parser) keyPairs(value any) (pairs []KeyPair, err error) {
	list, ok := value.([]any)
	if !ok || !slices.ContainsFunc(list, func(e any) bool { _, isList := e.([]any); return isList }) {
		files, err := p.files(value)
		for _, f := range files {
			pairs = append(pairs, KeyPair{f, f})
		}
		return pairs, err
	}
	for _, e := range list {
		pair, err := p.files(e)
		switch {
		case err != nil:
			return nil, err
		case len(pair) == 1, len(pair) == 2 && pair[1] == "": // the key is in the same file
			pairs = append(pairs, KeyPair{pair[0], pair[0]})
		case len(pair) == 2:
			pairs = append(pairs, KeyPair{pair[0], pair[1]})
		default:
			return nil, fmt.Errorf("%v: want a certificate and its key", e)
		}
	}
	return pairs, nil
}

func header(values map[string]any) (http.Header, error) {
	h := http.Header{}
	for key, value := range values {
		list, err := texts(value)
		if err != nil {
			return nil, fmt.Errorf("%q: %w", key, err)
		}
		for _, v := range list {
			h.Add(key, v)
		}
	}
	return h, nil
}

// texts reads a string or a list of strings.
func texts(value any) ([]string, error) {
	switch v := value.(type) {
	case nil:
		return nil, nil
	case string:
		return []string{v}, nil
	case []any:
		list := make([]string, len(v))
		for i := range v {
			s, ok := v[i].(string)
			if !ok {
				return nil, fmt.Errorf("%v is not a text", v[i])
			}
			list[i] = s
		}
		return list, nil
	}
	return nil, fmt.Errorf("%v is neither a text nor a list of texts", value)
}
