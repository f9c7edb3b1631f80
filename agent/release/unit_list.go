package release

import "strings"

// unitRule says why a value is refused, or nothing. The value is never empty: an empty one resets the directive.
type unitRule func(c *unitCheck, value string) string

// unitRules is the list of directives a release may use, with a nil rule where any value is harmless because the service
// runs as the app's user, the value concerns only the app's own unit, or it only takes rights away. CapabilityBoundingSet
// is of the last kind: without it the set is full.
var unitRules = map[string]map[string]unitRule{
	"Unit": with(free(`Description Documentation After PartOf Requisite ReloadPropagatedFrom StopPropagatedFrom
		RequiresMountsFor WantsMountsFor StartLimitIntervalSec StartLimitInterval StartLimitBurst StopWhenUnneeded
		CollectMode IgnoreOnIsolate JobTimeoutSec JobRunningTimeoutSec SurviveFinalKillSignal`),
		map[string]unitRule{
			"Before":             refs(beforeOthers...),
			"Wants":              refs(targets...),
			"Requires":           refs(targets...),
			"BindsTo":            refs(targets...),
			"Upholds":            refs(),
			"Conflicts":          refs("shutdown.target"),
			"OnFailure":          refs(),
			"OnSuccess":          refs(),
			"PropagatesReloadTo": refs(),
			"PropagatesStopTo":   refs(),
			"JoinsNamespaceOf":   refs(),
			"FailureAction":      none,
			"SuccessAction":      none,
			"StartLimitAction":   none,
			"JobTimeoutAction":   none,
		}),
	"Install": {
		"WantedBy":   enabler,
		"RequiredBy": refs(),
		"Also":       refs(),
	},
	"Service": with(free(`Type ExitType RemainAfterExit GuessMainPID Restart RestartSec RestartSteps RestartMaxDelaySec RestartMode
		RuntimeMaxSec RuntimeRandomizedExtraSec NotifyAccess SuccessExitStatus KillSignal RestartKillSignal
		FinalKillSignal SendSIGHUP NonBlocking FileDescriptorStoreMax FileDescriptorStorePreserve ReloadSignal OOMPolicy
		DynamicUser UMask Environment UnsetEnvironment PassEnvironment WorkingDirectory StateDirectoryMode
		RuntimeDirectoryMode CacheDirectoryMode LogsDirectoryMode ConfigurationDirectoryMode RuntimeDirectoryPreserve
		ReadWritePaths ReadOnlyPaths InaccessiblePaths ExecPaths NoExecPaths SetCredential NoNewPrivileges
		CapabilityBoundingSet LockPersonality KeyringMode ProcSubset RemoveIPC DevicePolicy DeviceAllow IgnoreSIGPIPE
		LogLevelMax LogExtraFields CPUAccounting CPUQuota CPUQuotaPeriodSec CPUWeight CPUAffinity BlockIOAccounting
		CoredumpFilter TimerSlackNSec StopWhenUnneeded StandardInputText StandardInputData SocketBindAllow SocketBindDeny`),
		map[string]unitRule{
			"ExecStart":               program,
			"ExecStartPre":            program,
			"ExecStartPost":           program,
			"ExecCondition":           program,
			"ExecReload":              program,
			"ExecReloadPost":          program,
			"ExecStop":                program,
			"ExecStopPost":            program,
			"User":                    rootOr(ownUsers),
			"Group":                   rootOr(ownUsers),
			"SupplementaryGroups":     rootOr(ownUsers),
			"KillMode":                killMode,
			"EnvironmentFile":         rootOr(releasePath),
			"PIDFile":                 rootOr(ownPath),
			"LoadCredential":          rootOr(credential),
			"LoadCredentialEncrypted": rootOr(credential),
			"StateDirectory":          ownDirs,
			"RuntimeDirectory":        ownDirs,
			"CacheDirectory":          ownDirs,
			"LogsDirectory":           ownDirs,
			"ConfigurationDirectory":  ownDirs,
			"AmbientCapabilities":     capabilities,
			"StandardInput":           rootOr(stream),
			"StandardOutput":          rootOr(stream),
			"StandardError":           rootOr(stream),
			"Sockets":                 refs(),
			"Slice":                   ownSlice,
			"Nice":                    rootOr(notNegative),
			"OOMScoreAdjust":          rootOr(notNegative),
		}),
	"Socket": with(free(`Accept Backlog BindIPv6Only BindToDevice SocketGroup SocketMode DirectoryMode FileDescriptorName
		NoDelay ReusePort FreeBind DeferAcceptSec ReceiveBuffer SendBuffer IPTOS IPTTL PassCredentials PassSecurity
		PassPacketInfo FlushPending RemoveOnStop TimeoutSec Timestamping SocketProtocol Priority`),
		map[string]unitRule{
			"ListenStream":           listen,
			"ListenDatagram":         listen,
			"ListenSequentialPacket": listen,
			"ListenFIFO":             listen,
			"Service":                refs(),
			"SocketUser":             rootOr(ownUsers),
		}),
	"Timer": with(free(`AccuracySec RandomizedDelaySec RandomizedOffsetSec FixedRandomDelay DeferReactivation Persistent
		RemainAfterElapse`), map[string]unitRule{"Unit": refs()}),
	"Path": with(free(`PathExists PathExistsGlob PathChanged PathModified DirectoryNotEmpty`), map[string]unitRule{"Unit": refs()}),
}

func free(names string) map[string]unitRule {
	m := map[string]unitRule{}
	for _, n := range strings.Fields(names) {
		m[n] = nil
	}
	return m
}

func with(m, more map[string]unitRule) map[string]unitRule {
	for k, v := range more {
		m[k] = v
	}
	return m
}

// rootOr lifts a rule where the host allows root: a service that runs as root gains nothing by breaking it.
func rootOr(rule unitRule) unitRule {
	return func(c *unitCheck, value string) string {
		if c.rules.AllowRoot {
			return ""
		}
		return rule(c, value)
	}
}
