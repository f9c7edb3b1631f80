package release

import (
	"bytes"
	"strings"
	"unicode/utf16"
	"unicode/utf8"
)

// internBelow is the length below which texts are shared: types, modes and kinds repeat in every entry of a manifest.
const internBelow = 9

// str reads a string.
func (d *decoder) str() (string, *refusal) {
	raw, r := d.strBytes()
	if r != nil || len(raw) == 0 {
		return "", r
	}
	if len(raw) >= internBelow {
		return string(raw), nil
	}
	if s, ok := d.intern[string(raw)]; ok {
		return s, nil
	}
	s := string(raw)
	if len(d.intern) < 64 {
		d.intern[s] = s
	}
	return s, nil
}

// strBytes reads a string; the result may share the input's memory. Control characters are refused even when escaped, and
// so are the marks that reorder text on a screen: these texts end up in terminals and logs.
func (d *decoder) strBytes() ([]byte, *refusal) {
	if d.data[d.pos] != '"' {
		return nil, d.refuse("%s where text is wanted", d.seen())
	}
	start := d.pos + 1
	plain, i := true, start
	for ; i < len(d.data) && d.data[i] != '"'; i++ {
		switch c := d.data[i]; {
		case c == '\\':
			plain = false
			i++
		case c < ' ':
			return nil, d.refuse("the text holds a control character at byte %d", i)
		case c >= 0x7f:
			plain = false
		}
	}
	if i >= len(d.data) {
		return nil, d.refuse("the text that starts at byte %d does not end", d.pos)
	}
	d.pos = i + 1
	raw := d.data[start:i]
	if plain {
		return raw, nil
	}
	if bytes.IndexByte(raw, '\\') >= 0 {
		var ok bool
		if raw, ok = unescape(raw); !ok {
			return nil, d.refuse("the text that starts at byte %d holds a broken escape", start-1)
		}
	}
	if why := textProblem(string(raw)); why != "" {
		return nil, d.refuse("the text %s", why)
	}
	return raw, nil
}

// textProblem says why s is no clean text, or nothing.
func textProblem(s string) string {
	if !utf8.ValidString(s) {
		return "is not UTF-8"
	}
	for _, c := range s {
		if c < ' ' || c >= 0x7f && c < 0xa0 {
			return "holds a control character"
		}
		if c >= 0x202a && c <= 0x202e || c >= 0x2066 && c <= 0x2069 || c == 0x2028 || c == 0x2029 {
			return "holds a character that reorders or breaks lines"
		}
	}
	return ""
}

// unescape resolves backslash escapes; lone surrogates and unknown escapes are refused.
func unescape(raw []byte) ([]byte, bool) {
	out := make([]byte, 0, len(raw))
	for i := 0; i < len(raw); i++ {
		if raw[i] != '\\' {
			out = append(out, raw[i])
			continue
		}
		if i++; i >= len(raw) {
			return nil, false
		}
		if raw[i] != 'u' {
			at := strings.IndexByte(`"\/bfnrt`, raw[i])
			if at < 0 {
				return nil, false
			}
			out = append(out, "\"\\/\b\f\n\r\t"[at])
			continue
		}
		r, ok := hex4(raw[i+1:])
		i += 4
		if utf16.IsSurrogate(r) && ok {
			var low rune
			if len(raw) > i+2 && raw[i+1] == '\\' && raw[i+2] == 'u' {
				low, ok = hex4(raw[i+3:])
			}
			r = utf16.DecodeRune(r, low)
			ok = ok && r != utf8.RuneError
			i += 6
		}
		if !ok {
			return nil, false
		}
		out = utf8.AppendRune(out, r)
	}
	return out, true
}

func hex4(b []byte) (rune, bool) {
	if len(b) < 4 {
		return 0, false
	}
	var r rune
	for _, c := range b[:4] {
		if 'A' <= c && c <= 'F' {
			c += 'a' - 'A'
		}
		h := hexDigit(c)
		if h > 15 {
			return 0, false
		}
		r = r<<4 | rune(h)
	}
	return r, true
}
