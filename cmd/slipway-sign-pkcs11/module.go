package main

import (
	"fmt"
	"runtime"
	"strings"
	"unsafe"

	"github.com/ebitengine/purego"
	"github.com/slipway-deploy/slipway/tuf/signer"
)

// The names and numbers below are those of PKCS #11 (OASIS, version 2.40 and, for EdDSA, 3.0). A CK_ULONG is a Go uint on every
// platform that this program is built for.
type (
	session uint
	object  uint
)

const (
	userNormal  = 1
	userContext = 2

	serialSession = 1 << 2

	classCertificate = 1
	classPublicKey   = 2
	classPrivateKey  = 3

	attrClass        = 0x000
	attrLabel        = 0x003
	attrValue        = 0x011
	attrID           = 0x102
	attrECParams     = 0x180
	attrECPoint      = 0x181
	attrAlwaysAuth   = 0x202
	mechanismECDSA   = 0x1041
	mechanismEdDSA   = 0x1057
	flagLogin        = 1 << 2
	flagPINPad       = 1 << 8
	flagPINFinalTry  = 1 << 17
	flagPINLocked    = 1 << 18
	longestAttribute = 1 << 16
)

// attribute is CK_ATTRIBUTE. Its value stays reachable for the collector through the pointer.
type attribute struct {
	kind  uint
	value unsafe.Pointer
	size  uint
}

func number(kind uint, v uint) attribute {
	return attribute{kind, unsafe.Pointer(&v), uint(unsafe.Sizeof(v))}
}

func octets(kind uint, v []byte) attribute {
	return attribute{kind, unsafe.Pointer(unsafe.SliceData(v)), uint(len(v))}
}

// mechanism is CK_MECHANISM without parameters.
type mechanism struct {
	kind uint
	_    unsafe.Pointer
	_    uint
}

// tokenInfo is CK_TOKEN_INFO. What lies between and behind the two parts that are read: maker, model and serial number; limits and
// counts, versions, and the time.
type tokenInfo struct {
	label [32]byte
	_     [32 + 16 + 16]byte
	flags uint
	_     [10]uint
	_     [2 + 2 + 16]byte
}

func (i *tokenInfo) name() string { return strings.TrimRight(string(i.label[:]), " \x00") }

// functionList is CK_FUNCTION_LIST: a version, and 68 functions in the order of the standard.
type functionList struct {
	version [2]byte
	fn      [68]uintptr
}

// module is a loaded PKCS #11 library: the functions that signing needs.
type module struct {
	initialize      func(args unsafe.Pointer) uint
	finalize        func(reserved unsafe.Pointer) uint
	getSlotList     func(present byte, list *uint, count *uint) uint
	getTokenInfo    func(slot uint, info *tokenInfo) uint
	openSession     func(slot, flags uint, app, notify unsafe.Pointer, s *session) uint
	closeSession    func(s session) uint
	login           func(s session, user uint, pin *byte, size uint) uint
	getAttribute    func(s session, o object, template *attribute, count uint) uint
	findObjectsInit func(s session, template *attribute, count uint) uint
	findObjects     func(s session, list *object, max uint, count *uint) uint
	findFinal       func(s session) uint
	signInit        func(s session, m *mechanism, key object) uint
	sign            func(s session, data *byte, size uint, sig *byte, sigSize *uint) uint
}

// load opens the library and initializes it. Close it before the process ends: some tokens remember who did not.
func load(path string) (*module, error) {
	lib, err := purego.Dlopen(path, purego.RTLD_NOW|purego.RTLD_LOCAL)
	if err != nil {
		return nil, fmt.Errorf("cannot load the token's library: %w", err)
	}
	entry, err := purego.Dlsym(lib, "C_GetFunctionList")
	if err != nil {
		return nil, fmt.Errorf("cannot use %s: it is not a PKCS#11 library: %w", path, err)
	}
	var getFunctionList func(list **functionList) uint
	purego.RegisterFunc(&getFunctionList, entry)
	var list *functionList
	if err := outcome("C_GetFunctionList", getFunctionList(&list)); err != nil {
		return nil, err
	}
	if list == nil || list.version[0] < 2 {
		return nil, fmt.Errorf("cannot use %s: it offers no PKCS#11 of version 2 or later", path)
	}
	m := &module{}
	for i, f := range map[int]any{0: &m.initialize, 1: &m.finalize, 4: &m.getSlotList, 6: &m.getTokenInfo, 12: &m.openSession,
		13: &m.closeSession, 18: &m.login, 24: &m.getAttribute, 26: &m.findObjectsInit, 27: &m.findObjects, 28: &m.findFinal,
		42: &m.signInit, 43: &m.sign} {
		if list.fn[i] == 0 {
			return nil, fmt.Errorf("cannot use %s: it lacks function %d of PKCS#11", path, i)
		}
		purego.RegisterFunc(f, list.fn[i])
	}
	return m, outcome("C_Initialize", m.initialize(nil))
}

func (m *module) close() { m.finalize(nil) }

// slots lists the slots that have a token in them.
func (m *module) slots() ([]uint, error) {
	var n uint
	if err := outcome("C_GetSlotList", m.getSlotList(1, nil, &n)); err != nil || n == 0 {
		return nil, err
	}
	list := make([]uint, n)
	err := outcome("C_GetSlotList", m.getSlotList(1, &list[0], &n))
	return list[:min(n, uint(len(list)))], err
}

// find lists up to 16 objects that match.
func (m *module) find(s session, template ...attribute) ([]object, error) {
	if err := outcome("C_FindObjectsInit", m.findObjectsInit(s, unsafe.SliceData(template), uint(len(template)))); err != nil {
		return nil, err
	}
	list := make([]object, 16)
	var n uint
	err := outcome("C_FindObjects", m.findObjects(s, &list[0], uint(len(list)), &n))
	m.findFinal(s)
	runtime.KeepAlive(template)
	return list[:min(n, uint(len(list)))], err
}

// attribute reads one attribute of o; nil if it has none.
func (m *module) attribute(s session, o object, kind uint) []byte {
	a := attribute{kind: kind}
	if m.getAttribute(s, o, &a, 1) != 0 || a.size == 0 || a.size > longestAttribute {
		return nil
	}
	value := make([]byte, a.size)
	a = octets(kind, value)
	if m.getAttribute(s, o, &a, 1) != 0 || a.size > uint(len(value)) {
		return nil
	}
	return value[:a.size]
}

// outcome turns a CK_RV into an error: nil for CKR_OK.
func outcome(function string, rv uint) error {
	if rv == 0 {
		return nil
	}
	known := map[uint]struct {
		name string
		kind error
	}{
		0x005: {"CKR_GENERAL_ERROR", nil}, 0x006: {"CKR_FUNCTION_FAILED", nil}, 0x020: {"CKR_DATA_INVALID", nil},
		0x021: {"CKR_DATA_LEN_RANGE: the token does not sign texts of this length in one piece; use a P-256 key", nil},
		0x030: {"CKR_DEVICE_ERROR", signer.ErrUnavailable}, 0x032: {"CKR_DEVICE_REMOVED", signer.ErrUnavailable},
		0x050: {"CKR_FUNCTION_CANCELED", signer.ErrRefused}, 0x068: {"CKR_KEY_FUNCTION_NOT_PERMITTED", signer.ErrRefused},
		0x070: {"CKR_MECHANISM_INVALID: the token does not sign this way", nil},
		0x0a0: {"CKR_PIN_INCORRECT: the PIN is wrong", signer.ErrRefused}, 0x0a1: {"CKR_PIN_INVALID", signer.ErrRefused},
		0x0a2: {"CKR_PIN_LEN_RANGE: the PIN has the wrong length", signer.ErrRefused}, 0x0a3: {"CKR_PIN_EXPIRED", signer.ErrRefused},
		0x0a4: {"CKR_PIN_LOCKED: too many wrong PINs were tried; unblock the token", signer.ErrRefused},
		0x0e0: {"CKR_TOKEN_NOT_PRESENT", signer.ErrUnavailable}, 0x101: {"CKR_USER_NOT_LOGGED_IN", nil},
		0x102: {"CKR_USER_PIN_NOT_INITIALIZED: the token has no PIN yet", signer.ErrRefused},
	}
	k, ok := known[rv]
	switch {
	case !ok:
		return fmt.Errorf("%s: error %#x of the token", function, rv)
	case k.kind != nil:
		return fmt.Errorf("%w: %s: %s", k.kind, function, k.name)
	}
	return fmt.Errorf("%s: %s", function, k.name)
}
