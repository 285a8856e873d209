// SPDX-License-Identifier: Apache-2.0
import ArgumentParser
import GuestCode
import Machine

/// `--cpuid-site`.
struct CPUIDSiteOption: ExpressibleByArgument, Equatable {
    let symbol: String
    let address: UInt64?

    init?(argument: String) {
        let parts = argument.split(separator: "=", maxSplits: 1, omittingEmptySubsequences: false)
        guard let symbol = parts.first, !symbol.isEmpty else { return nil }
        self.symbol = String(symbol)
        guard parts.count == 2 else {
            address = nil
            return
        }
        guard let address = UInt64(parts[1].hasPrefix("0x") ? parts[1].dropFirst(2) : parts[1], radix: 16) else {
            return nil
        }
        self.address = address
    }

    func sites(_ symbols: SymbolTable?) throws -> [CPUIDSite] {
        if let address {
            return [CPUIDSite(name: symbol, address: address)]
        }
        let sites = symbols.map { CPUIDSite.named(symbol, in: $0) } ?? []
        guard !sites.isEmpty else {
            throw Failure("--cpuid-site \(symbol): no symbols that name it: give --symbols FILE, or \(symbol)=ADDRESS")
        }
        return sites
    }
}
