// SPDX-License-Identifier: Apache-2.0

/// What this is a version of: docs/versions.md.
public enum Release {
    public static let version = "0.1.0"
}
