package main

import "syscall"

// refuse writes an error object of the shim's own (CNI 1.1.0, Error) and returns the
// exit status.
func refuse(stdin []byte, msg string) int {
	code := "11"
	if command, _ := syscall.Getenv("CNI_COMMAND"); command == "STATUS" {
		code = "50"
	}
	writeAll(1, []byte(`{"cniVersion":"`+version(stdin)+`","code":`+code+`,"msg":"`+escape(msg)+`"}`))
	return 1
}

// version returns the first cniVersion in a document, or the newest version. A JSON
// decoder would be most of this program, and the version is all that is needed to
// report that no daemon answers.
func version(doc []byte) string {
	const key, newest = `"cniVersion"`, "1.1.0"
	for i := 0; i+len(key) < len(doc); i++ {
		if string(doc[i:i+len(key)]) != key {
			continue
		}
		rest := doc[i+len(key):]
		start := skip(rest, 0, " \t\r\n:")
		if start >= len(rest) || rest[start] != '"' {
			return newest
		}
		end := skip(rest, start+1, "0123456789.")
		if end >= len(rest) || rest[end] != '"' || end == start+1 {
			return newest
		}
		return string(rest[start+1 : end])
	}
	return newest
}

// skip returns the first index from i on whose byte is not in set.
func skip(b []byte, i int, set string) int {
	for ; i < len(b); i++ {
		found := false
		for j := range len(set) {
			found = found || b[i] == set[j]
		}
		if !found {
			break
		}
	}
	return i
}

// escape escapes text for use inside a JSON string.
func escape(s string) string {
	const hex = "0123456789abcdef"
	var out []byte
	for i := range len(s) {
		switch c := s[i]; {
		case c == '"' || c == '\\':
			out = append(out, '\\', c)
		case c < ' ' || c >= 0x7f:
			out = append(out, '\\', 'u', '0', '0', hex[c>>4], hex[c&15])
		default:
			out = append(out, c)
		}
	}
	return string(out)
}
