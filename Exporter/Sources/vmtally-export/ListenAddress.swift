// SPDX-License-Identifier: Apache-2.0
import ArgumentParser
import Glibc

/// `127.0.0.1:20479`, `[::1]:20479`: an address, not a name, which would have to be looked up.
struct ListenAddress: ExpressibleByArgument, CustomStringConvertible, Equatable {
    let host: String
    let port: Int

    /// The port is the leaf's, 0x4FFF.
    static let usual = ListenAddress(host: "127.0.0.1", port: 0x4FFF)

    init(host: String, port: Int) {
        self.host = host
        self.port = port
    }

    init?(argument: String) {
        guard let colon = argument.lastIndex(of: ":"), let port = UInt16(argument[argument.index(after: colon)...])
        else { return nil }
        var host = argument[..<colon]
        let isBracketed = host.hasPrefix("[") && host.hasSuffix("]")
        if isBracketed { host = host.dropFirst().dropLast() }
        var address = in6_addr()
        let family = isBracketed ? AF_INET6 : AF_INET
        guard inet_pton(family, String(host), &address) == 1 else { return nil }
        self.host = String(host)
        self.port = Int(port)
    }

    /// Nobody but this host's processes reaches it.
    var isLoopback: Bool { host.hasPrefix("127.") || host == "::1" }

    var description: String { host.contains(":") ? "[\(host)]:\(port)" : "\(host):\(port)" }
}
