// SPDX-License-Identifier: Apache-2.0
import Testing

@testable import ExitStats

@Suite("CycleHistogram")
struct CycleHistogramTests {
    /// Bucket borders, where an off-by-one would show, and values between them.
    static let samples: [UInt64] = {
        var random = SystemRandomNumberGenerator()
        let borders = (0..<CycleHistogram.bucketCount).map(CycleHistogram.lowerBound)
        let spread = (0..<20_000).map { _ in UInt64.random(in: 0..<1 << 41, using: &random) >> Int.random(in: 0..<41) }
        return borders + borders.dropFirst().map { $0 - 1 } + spread
    }()

    @Test("a value lies in its bucket")
    func contains() {
        for value in Self.samples {
            let bucket = CycleHistogram.bucket(of: value)
            #expect(CycleHistogram.lowerBound(of: bucket) <= value && value <= CycleHistogram.upperBound(of: bucket))
        }
    }

    @Test("a bucket's midpoint is within 2 % of every value from 16 to 2^40")
    func precision() {
        for value in Self.samples where (16...1 << 40).contains(value) {
            let midpoint = CycleHistogram.midpoint(of: CycleHistogram.bucket(of: value))
            #expect(midpoint.absoluteDifference(to: value) * 50 <= value, "\(value) → \(midpoint)")
        }
    }

    @Test("buckets follow each other without gap or overlap")
    func contiguous() {
        for bucket in 1..<CycleHistogram.bucketCount {
            #expect(CycleHistogram.lowerBound(of: bucket) == CycleHistogram.upperBound(of: bucket - 1) + 1)
        }
    }

    @Test("values past the last bucket stay in it", arguments: [1 << 41, 1 << 50, UInt64.max - 1, UInt64.max])
    func clamped(value: UInt64) {
        #expect(CycleHistogram.bucket(of: value) == CycleHistogram.bucketCount - 1)
    }
}

extension UInt64 {
    fileprivate func absoluteDifference(to other: UInt64) -> UInt64 {
        self > other ? self - other : other - self
    }
}
