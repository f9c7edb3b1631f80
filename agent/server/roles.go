package server

import (
	"os/user"
	"slices"
	"strconv"
)

// Role is what a caller may do; each includes the ones before it.
type Role int

// The roles. RoleAnyone is every local user that can open the socket.
const (
	RoleAnyone Role = iota
	RoleViewer
	RoleOperator
	RoleSecurity
	RoleAdmin
)

// String is the role's name in the configuration.
func (r Role) String() string {
	return [...]string{"anyone", "viewer", "operator", "security", "admin"}[r]
}

// Roles says who has which role; they come from configuration that only root can write. Root is admin whatever they say.
type Roles struct {
	Viewer, Operator, Security, Admin Members
}

// Members are names or numbers of users and groups. A name the host does not know matches nobody.
type Members struct {
	Users, Groups []string
}

// overflowUID is what the kernel reports for a user of a foreign user namespace: several users share it, so it never has a role.
const overflowUID = 65534

// roleOf is the highest role of a peer.
func (r Roles) roleOf(p peer) Role {
	if p.uid == 0 {
		return RoleAdmin
	}
	if p.uid == overflowUID {
		return RoleAnyone
	}
	for _, one := range []struct {
		role Role
		m    Members
	}{{RoleAdmin, r.Admin}, {RoleSecurity, r.Security}, {RoleOperator, r.Operator}, {RoleViewer, r.Viewer}} {
		if one.m.include(p) {
			return one.role
		}
	}
	return RoleAnyone
}

func (m Members) include(p peer) bool {
	uid := strconv.FormatUint(uint64(p.uid), 10)
	for _, name := range m.Users {
		if name == uid {
			return true
		}
		if u, err := user.Lookup(name); err == nil && u.Uid == uid {
			return true
		}
	}
	for _, name := range m.Groups {
		gid, err := strconv.ParseUint(name, 10, 32)
		if err != nil {
			g, err := user.LookupGroup(name)
			if err != nil {
				continue
			}
			if gid, err = strconv.ParseUint(g.Gid, 10, 32); err != nil {
				continue
			}
		}
		if slices.Contains(p.gids, uint32(gid)) {
			return true
		}
	}
	return false
}

func userName(uid uint32) string {
	text := strconv.FormatUint(uint64(uid), 10)
	if u, err := user.LookupId(text); err == nil {
		return u.Username
	}
	return text
}
