// SPDX-License-Identifier: Apache-2.0

extension ExitCounts {
    /// What has been counted since an earlier reading by the same source. Ranges are of the whole time, so none is given.
    public func since(_ earlier: ExitCounts?) -> ExitCounts {
        guard let earlier, earlier.source == source, earlier.vocabulary == vocabulary else { return self }
        guard let vocabulary else {
            return ExitCounts(source: source, total: total >= earlier.total ? total - earlier.total : total)
        }
        let before = Dictionary(earlier.reasons.map { ($0.code, $0) }, uniquingKeysWith: { first, _ in first })
        let reasons: [Reason] = reasons.compactMap { reason in
            guard let old = before[reason.code] else { return reason }
            // Read while they were counted: a number may be one behind.
            func less(_ new: UInt64, _ old: UInt64) -> UInt64 { new >= old ? new - old : 0 }
            guard reason.count > old.count else { return nil }
            let times = reason.times.map { new in
                let was = old.times ?? Times(cycles: 0)
                return Times(
                    cycles: less(new.cycles, was.cycles),
                    buckets: new.buckets.enumerated().map { less($1, $0 < was.buckets.count ? was.buckets[$0] : 0) },
                    halted: less(new.halted, was.halted), userspace: less(new.userspace, was.userspace))
            }
            return Reason(code: reason.code, count: reason.count - old.count, times: times)
        }
        return ExitCounts(source: source, vocabulary: vocabulary, reasons: reasons)
    }
}
