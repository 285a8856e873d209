// SPDX-License-Identifier: Apache-2.0
import CVersion

/// What this is a version of: docs/versions.md.
public enum Release {
    private static let number = "0.1.0"

    /// `0.1.0+0123456789ab`: the version, and the commit that it was built from where that is known.
    public static let version: String = {
        let commit = String(cString: vmtally_commit())
        return number + (commit.isEmpty ? "" : "+" + commit)
    }()
}
