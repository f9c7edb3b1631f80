package release

import (
	"fmt"
	"strings"
)

// ReleasePath is the target path of a release document.
func ReleasePath(a App, v Version) string { return releaseFolder(a, v) + "release.json" }

// ArchivePath is where the publisher puts a platform's archive; hosts follow the signed release document instead.
func ArchivePath(a App, v Version, p Platform) string {
	return releaseFolder(a, v) + p.FileName() + ".tar.zst"
}

// ManifestPath is where the publisher puts a platform's manifest; hosts follow the signed release document instead.
func ManifestPath(a App, v Version, p Platform) string {
	return releaseFolder(a, v) + p.FileName() + ".manifest.json"
}

// DeploymentPath is the target path of the deployment of an app in an environment.
func DeploymentPath(e Environment, a App) string {
	return "deployments/" + e.s + "/" + a.s + ".json"
}

// EmergencyPath is the target path of an environment's emergency document.
func EmergencyPath(e Environment) string { return "emergency/" + e.s + ".json" }

// InventoryPath is the target path of an environment's inventory.
func InventoryPath(e Environment) string { return "inventory/" + e.s + ".json" }

// ParseReleasePath is the inverse of ReleasePath; anything else is refused.
func ParseReleasePath(path string) (App, Version, error) {
	parts := strings.Split(path, "/")
	if len(parts) != 4 || parts[0] != "releases" || parts[3] != "release.json" {
		return App{}, Version{}, badName("a release path", path, "it is not releases/<app>/<version>/release.json")
	}
	a, err := ParseApp(parts[1])
	if err != nil {
		return App{}, Version{}, fmt.Errorf("cannot read release path: %w", err)
	}
	v, err := ParseVersion(parts[2])
	if err != nil {
		return App{}, Version{}, fmt.Errorf("cannot read release path: %w", err)
	}
	return a, v, nil
}

func releaseFolder(a App, v Version) string { return "releases/" + a.s + "/" + v.s + "/" }
